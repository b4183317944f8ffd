"""Raw logs to dataset directories: `prepare("census", Path("data/census"))`, or your own by `write_tables`.

From a newcomer's first file to the last:

    fetch.py       raw files: the user's copy, the cache, a download
    census.py      a source: its files, columns and their roles
    recipe.py      what a source tells the pipeline
    pipeline.py    the pipeline itself: vocabularies, ids, statistics, directory
    vocabulary.py  raw value -> table row, as Ibis expressions
    stats.py       order-independent statistics
    writer.py      the dataset directory: parts, schema.toml, stats.json, _SUCCESS
    tables.py      your own Arrow tables, ids already given, as a dataset directory
    summary.py     what `prepare` returns, fit for a screen
"""

from __future__ import annotations

from data_prep.pipeline import SOURCES, prepare
from data_prep.summary import Summary
from data_prep.tables import write_tables

__all__ = ["SOURCES", "Summary", "prepare", "write_tables"]
