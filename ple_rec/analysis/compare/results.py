"""`compare.json`: what the finished runs of a comparison tell, per variant and task.

    {"format": 1, "name", "data", "dataset_fingerprint", "match", "reference", "baseline", "seeds", "missing", "remarks",
     "tasks": {task: {"kind", "metric"}},
     "variants": {name: {"model", "sizes", "cost", "seeds", "failed",
         "tasks": {task: {"values": {seed: value}, "mean", "sd", "gain"}}, "gates"}},
     "verdict"}

`gain` is None for the baseline and where no seed has both, else {"values", "mean", "sd", "seed_interval",
"row_interval"}; `sizes` is what equal cost made of a variant's layer sizes, `gates` its expert weights, of the first seed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ple_rec.analysis.compare.gain import METRICS, mtl_gains
from ple_rec.analysis.compare.intervals import TaskRows, row_interval, seed_interval
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.runs import Done
from ple_rec.analysis.compare.verdict import verdict
from ple_rec.config.schema import Task
from ple_rec.train.run_dir import LOG, TEST_ROWS

_FORMAT = 1
