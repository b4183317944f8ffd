"""A dataset in which it is known which tasks help each other, and comparisons over it.

`left` and `right` are the signs of two products that have no number in common: a bottom that passes on a single number
can serve either, and not both, however it is trained. `rich` and `poor` are the sign of one sum of many numbers: `rich`
has labels, a quarter of them wrong, for every training row, `poor` for a few; those of `poor` are the opposite ones,
which a tower turns around, so that a bottom of both learns from all rows for both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep import write_tables
from ple_rec.config.base import Split
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import dump_toml
from ple_rec.config.schema import DenseFeature, SparseFeature, Task

ROWS: dict[Split, int] = {"train": 3000, "valid": 200, "test": 2000}
FACTORS, TERMS = [f"x{i}" for i in range(4)], [f"s{i}" for i in range(32)]
WRONG, LABELLED = 0.25, 0.01  # of the training rows; few and bad labels are to be learnt from, not judged by
STEPS = 160

RUN = f"""\
name = "planted"

[data]
path = "data"
virtual_shards = 4

[embeddings]
dim = 4

[model]
variant = "single_task"
bottom = [32, 1]
activation = "tanh"
tower = {{ hidden = [] }}

[dense_optimizer]
learning_rate = 0.02

[train]
batch_size = 100
steps = {STEPS}
evaluate_every = {STEPS}
report_every = 40

[checkpoint]
every = 40

[runtime]
device = "cpu"
"""
# Of two tasks that a bottom of one number cannot both serve, it serves the heavier.
LEFT_RIGHT = 'tasks=[{name = "left", weight = 3.0}, {name = "right"}]'
OF_APART = (LEFT_RIGHT, f"data.drop={json.dumps(TERMS)}")
OF_ALIKE = (
    'tasks=[{name = "rich"}, {name = "poor"}]',
    f"data.drop={json.dumps(FACTORS)}",
    "model.bottom=[16]",
)
HARD = ("model.variant=hard_sharing",)
PLE = ("model.variant=ple", "model.levels=[{expert_hidden = [32, 2]}]")
DIVERGES = (*HARD, "model.activation=relu", "dense_optimizer.learning_rate=1e30")


def write_planted(folder: Path, seed: int = 0, features: Sequence[str] = (*FACTORS, *TERMS)) -> None:
    """`data/` and `planted.toml` in `folder`."""
    splits: dict[Split, pa.Table] = {}
    for number, (split, rows) in enumerate(ROWS.items()):
        random = np.random.default_rng([seed, number])
        x_NF, s_NT = random.normal(size=(rows, len(FACTORS))), random.normal(size=(rows, len(TERMS)))
        sum_N, train = s_NT.sum(axis=1) > 0, split == "train"
        labels = {
            "left": (x_NF[:, 0] + 1) * (x_NF[:, 1] + 1) > 0,
            "right": (x_NF[:, 2] + 1) * (x_NF[:, 3] + 1) > 0,
            "rich": sum_N ^ (train & (random.random(rows) < WRONG)),
            "poor": ~sum_N,
        }
        splits[split] = pa.table(
            dict(zip((*FACTORS, *TERMS), (*x_NF.T, *s_NT.T), strict=True))
            | {name: label_N.astype(np.float32) for name, label_N in labels.items()}
            | {"in_poor": ~np.full(rows, train) | (random.random(rows) < LABELLED)}
            | {"page": random.integers(0, 4, rows)}  # tells nothing
        )
    write_tables(
        folder / "data",
        name="planted",
        splits=splits,
        sparse=[SparseFeature(name="page", table="page")],
        dense=[DenseFeature(name=name) for name in features],
        tasks=[
            *(Task(name=name, kind="binary", label=name) for name in ("left", "right", "rich")),
            Task(name="poor", kind="binary", label="poor", space="in_poor"),
        ],
        row_group_rows=500,
    )
    (folder / "planted.toml").write_text(RUN)


def planted(name: str, common: Sequence[str], variants: Mapping[str, Sequence[str]], seeds: int) -> CompareConfig:
    """Single-task, and other variants by their overrides; before those, what all have in common."""
    raw: dict[str, Any] = {
        "name": name,
        "seeds": seeds,
        "match": "none",
        "overrides": list(common),
        "variants": {
            variant: {"base": "planted.toml", "overrides": list(overrides)}
            for variant, overrides in ({"single_task": ()} | dict(variants)).items()
        },
    }
    return CompareConfig.model_validate_json(json.dumps(raw))


def apart() -> CompareConfig:
    """Hard sharing of what cannot be shared, PLE of the same, and a run that diverges; two seeds."""
    return planted("apart", OF_APART, {"hard_sharing": HARD, "diverges": DIVERGES, "ple": PLE}, seeds=2)


def alike() -> CompareConfig:
    """Hard sharing of what is the same; three seeds."""
    return planted("alike", OF_ALIKE, {"hard_sharing": HARD}, seeds=3)


def write_comparison(compare: CompareConfig, folder: Path) -> Path:
    """Its file, for the command line."""
    file = folder / f"{compare.name}.toml"
    file.write_text(dump_toml(compare))
    return file
