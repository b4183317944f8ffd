"""The server of an exported model, and its page."""
