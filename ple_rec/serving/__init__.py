"""HTTP server of an exported model (`http`), and its page (`page`)."""
