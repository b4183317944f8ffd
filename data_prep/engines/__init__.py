"""What runs the pipeline's Ibis expressions: DuckDB in this process, or Spark."""
