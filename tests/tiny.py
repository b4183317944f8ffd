"""A tiny dataset directory and configuration for tests of whole processes, and a look at those processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.output.parts import write_part
from data_prep.output.writer import finish
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema, DenseFeature, SparseFeature, SplitInfo, Table, Task
from ple_rec.data.order import row_group_order

ROWS: dict[Split, int] = {"train": 256, "valid": 64, "test": 64}
GROUP_ROWS = 32
USERS = 50
LAST_GROUP = int(row_group_order(ROWS["train"] // GROUP_ROWS, 0, 0, shuffle=True)[-1])  # which rank 1 of 2 reads last

CONFIG = """\
name = "tiny"

[data]
path = "data"
virtual_shards = 2

[embeddings]
dim = 4

[model]
variant = "ple"

[[model.levels]]
expert_hidden = [4]

[train]
batch_size = 16
epochs = 1

[runtime]
device = "cpu"
threads = 1
"""


def write_tiny(folder: Path, *, without: str | None = None, wrong_group: int | None = None) -> Path:
    """`data/` and `tiny.toml` in `folder`: two binary tasks, `click` by parity of the user, `like` by sign of the age.

    Args:
        folder: Of both.
        without: A column that the training part lacks, though the schema names it.
        wrong_group: A row group of the training part whose row 5 has the label 2.
    """
    rng = np.random.default_rng(0)
    parts = {}
    for split, rows in ROWS.items():
        user, age = rng.integers(0, USERS, rows, dtype=np.int32), rng.normal(size=rows).astype(np.float32)
        click = (user % 2).astype(np.float32)
        if split == "train" and wrong_group is not None:
            click[wrong_group * GROUP_ROWS + 5] = 2
        parts[split] = pa.table({"user": user, "age": age, "click": click, "like": (age > 0).astype(np.float32)})
    if without is not None:
        parts["train"] = parts["train"].drop_columns(without)
    schema = DatasetSchema(
        version=1,
        name="tiny",
        fingerprint="tiny",
        tables=(Table(name="user", rows=USERS),),
        sparse=(SparseFeature(name="user", table="user"),),
        dense=(DenseFeature(name="age"),),
        tasks=tuple(Task(name=name, kind="binary", label=name) for name in ("click", "like")),
        splits={split: SplitInfo(rows=rows, row_groups=rows // GROUP_ROWS) for split, rows in ROWS.items()},
    )
    for split, part in parts.items():
        (folder / "data" / split).mkdir(parents=True)
        write_part(folder / "data" / split / "part-00000.parquet", part, schema.fingerprint, GROUP_ROWS)
    stats = {"columns": {"age": {"train": {"mean": 0.0, "std": 1.0}}}}
    finish(folder / "data", schema, "tiny", stats)
    (folder / "tiny.toml").write_text(CONFIG)
    return folder / "data"


def children(parent: int) -> list[int]:
    """Processes whose parent is `parent`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, above = file.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        if int(above) == parent and state != "Z":
            found.append(int(file.parent.name))
    return sorted(found)


def alive(process: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rank_of(process: int) -> str | None:
    """RANK in its environment."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    return next((value.removeprefix("RANK=") for value in variables if value.startswith("RANK=")), None)


def processes_in(folder: Path) -> list[int]:
    """Other processes whose working directory is `folder`; one that has ended has none."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink() == folder and link.parent.name != str(os.getpid()):
                found.append(int(link.parent.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether it became true in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def environment(repository: Path, **more: str) -> dict[str, str]:
    """For processes that run this clone from another folder."""
    return os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"} | more
