"""Vocabularies, which map the raw values of a column, such as user ids, to rows of embedding tables."""
