"""Reading of the raw files that a configuration names: search, conversion of CSV to Parquet, footers, and checks."""
