"""Page and text of the analysis of a run."""
