"""The page of a run: a builder for each section."""
