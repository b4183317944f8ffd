"""Synthetic datasets of any size, to test large runs, and to compare models with the one that generated the labels.

There are two: `tencent-synthetic`, a feed of short videos like that of the PLE paper, and `mmoe-synthetic`, two
regressions (Ma et al., KDD 2018). The modules, from random bits to a dataset directory:

    hashing.py    random bits as a function of an index, random permutations that store no table
    laws.py       power laws and link functions in arithmetic that is the same on every machine
    world.py      numbers of users, videos and impressions; user and time of each impression
    entities.py   features of users, videos and contexts; the recommender that chose the videos
    outcomes.py   probabilities, labels, and the best metrics that a model can reach
    feed.py       blocks of impressions with all their columns
    columns.py    blocks as Arrow tables
    tencent.py    `tencent-synthetic`: the parts of the dataset, and raw logs of the same impressions
    mmoe.py       `mmoe-synthetic`
    files.py      worker processes, and the Parquet files that they write
    prepare.py    `prepare_synthetic`, which writes a dataset directory
"""

from __future__ import annotations

from data_prep.synthetic.prepare import SYNTHETIC, prepare_synthetic
from data_prep.synthetic.tencent import write_raw

__all__ = ["SYNTHETIC", "prepare_synthetic", "write_raw"]
