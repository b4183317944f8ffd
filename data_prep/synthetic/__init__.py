"""Data of any size from a generator, for tests of scale and for questions whose answer must be known.

From bits to a directory:

    hashing.py    random bits of an index, permutations without a table
    laws.py       power laws and links in arithmetic that is the same everywhere
    world.py      how many users, videos and impressions; who and when
    people.py     users, videos, contexts, and the recommender that made the log
    outcomes.py   what happens: probabilities and labels
    feed.py       blocks of impressions
    columns.py    blocks as Arrow tables
    tencent.py    `tencent-synthetic`: parts of a dataset, and raw logs
    mmoe.py       `mmoe-synthetic`
    oracle.py     the best that any model can reach
    design.py     what `prepare` needs of the two
    files.py      Parquet files
    workers.py    processes
    directory.py  the dataset directory
    prepare.py    `prepare_synthetic`
"""

from __future__ import annotations

from data_prep.synthetic.prepare import SYNTHETIC, prepare_synthetic
from data_prep.synthetic.tencent import write_raw

__all__ = ["SYNTHETIC", "prepare_synthetic", "write_raw"]
