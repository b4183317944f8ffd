"""The dataset directory: its Parquet files (parts) and metadata, and how a complete one gets to its place."""
