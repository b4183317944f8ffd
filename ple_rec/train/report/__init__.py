"""Numbers as people read them, where the rest of the package imports them from."""
