"""The dataset directory: parts, vocabularies' files, metadata, and how it appears whole."""
