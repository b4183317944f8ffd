"""Page of a run, with a builder for each section."""
