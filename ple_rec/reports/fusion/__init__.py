"""Page and text of a fusion."""
