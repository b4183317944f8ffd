"""Analysis of finished runs: one by itself, several seeds, comparisons of variants, and the search of a fusion."""
