"""Embeddings, the multi-task model and its variants, losses."""
