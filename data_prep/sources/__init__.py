"""From the files that a configuration names to checked Parquet files with known row counts; no engine is needed."""
