"""Generated data of any size, for tests of scale and for questions whose answers must be known.

The modules, from random bits to a dataset directory:

    hashing.py    random bits of an index, permutations without a table
    laws.py       power laws and links in arithmetic that is the same everywhere
    world.py      number of users, videos and impressions; who meets which video when
    entities.py   users, videos, contexts, and the recommender that logged the feed
    outcomes.py   probabilities, labels, and the best metric that any model can reach
    feed.py       blocks of impressions
    columns.py    blocks as Arrow tables
    tencent.py    `tencent-synthetic`: parts of a dataset, and raw logs
    mmoe.py       `mmoe-synthetic`
    files.py      processes that each generate a share, and the Parquet files that they write
    prepare.py    `prepare_synthetic`: the dataset directory
"""

from __future__ import annotations

from data_prep.synthetic.prepare import SYNTHETIC, prepare_synthetic
from data_prep.synthetic.tencent import write_raw

__all__ = ["SYNTHETIC", "prepare_synthetic", "write_raw"]
