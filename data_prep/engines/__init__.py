"""Engines that run the pipeline's Ibis expressions: DuckDB in this process, and Spark."""
