"""The page of a comparison: its sections, charts and figures."""
