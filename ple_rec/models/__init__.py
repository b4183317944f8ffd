"""Embedding tables, the multi-task model and its variants, and losses."""
