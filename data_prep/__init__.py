"""Raw logs to dataset directories: `prepare("feed.toml", Path("data/feed"))`, or Arrow tables by `write_tables`.

From the user's files to the last byte:

    run.py            what the command does: configuration, files, engine, pipeline, directory
    recipes/          configurations that come with the package; census.py, fetch.py: raw files that are fetched
    sources/          files: patterns, footers, digests; CSV and other formats to Parquet
    resolve.py        the expressions of a configuration (expressions/), and the columns that they read
    pipeline.py       the passes in their order, as Ibis expressions
      sides.py          side tables joined to the log (side_bags.py: their bags, once a side row)
      rows.py           the rows that a preparation, a dry run and a prediction read, and what is wrong with them
      features.py       labels.py, splits.py: their columns before ids
                        (words.py, deriving.py: what expressions read, what is derived; days.py, hashing.py)
      numbers.py        edges and thresholds as quantiles of the training rows
      survey.py         rows by split and part, bad rows, missing days
      dictionaries.py   vocabularies (vocabulary.py)
      split_writer.py   parts (encode.py, parts.py)
      stats/            statistics and their page; metadata.py: schema.toml, prep.toml
    engines/          DuckDB and Spark
    stage.py          the one way to make a directory (upload.py: in a store); append.py, parent.py: one more day
    tables.py         Arrow tables, ids already given, as a dataset directory
    synthetic/        generated logs
"""

from __future__ import annotations

from data_prep.output.summary import Summary
from data_prep.output.tables import write_tables
from data_prep.run import Options, prepare, recipe_names

__all__ = ["Options", "Summary", "prepare", "recipe_names", "write_tables"]
