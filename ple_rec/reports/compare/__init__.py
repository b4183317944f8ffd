"""Page, figures and text of a comparison."""
