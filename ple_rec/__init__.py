"""ple_rec: distributed training of multi-task recommenders on sparse embeddings."""

__version__ = "0.1.0"
