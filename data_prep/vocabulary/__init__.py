"""Vocabularies: from raw values to rows of embedding tables."""
