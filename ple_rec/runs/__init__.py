"""The directory of a run: its lock, its files, and readers of what runs have written."""
