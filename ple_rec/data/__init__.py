"""Reading of a prepared dataset: Parquet files, encoding of raw values, sampling order, and batches for the model."""
