"""Parquet -> Batch."""
