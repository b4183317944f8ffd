"""The dataset directory: its parts and metadata, and the steps by which it appears whole."""
