"""What `ple-rec bench serve` serves: the reference PLE, hardly trained, exported; and requests for it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ple_rec.bench.requests_data import SHARED
from ple_rec.bench.tables_slice import write_slice
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.precision import AskedPrecision
from ple_rec.config.run import RunConfig
from ple_rec.data.encode import Encoder
from ple_rec.serve.export import Wanted, export
from ple_rec.serve.signature import Input
from ple_rec.serve.tables import TablePrecision
from ple_rec.train.run import train

RECIPE = "bench-feed"
PATH = "/v1/rank"
_ROWS, _EVALUATED = 65_536, 40  # of train, at least; users of valid and test
_NEVER = 10**9


def export_reference(
    folder: Path, users: int, precisions: Sequence[TablePrecision], dense: AskedPrecision = "fp32"
) -> dict[TablePrecision, Path]:
    """Models, by the precision of their tables: the same run of one step, exported.

    Args:
        folder: For them, the dataset and the run.
        users: Rows of the table of users.
        precisions: Which.
        dense: Of matrix products.
    """
    write_slice(folder / "data", users, _ROWS, _EVALUATED)
    settings = [f"data.path={folder / 'data'}", "runtime.threads=1", "runtime.device=cpu", "train.precision=fp32"]
    steps = ["train.batch_size_per_rank=4096", "train.epochs=", "train.steps=1", f"train.evaluate_every={_NEVER}"]
    config = load_config(RunConfig, RECIPE, [*settings, *steps])
    with contextlib.redirect_stdout(sys.stderr):
        train(config, folder / "run")
    metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    for precision in precisions:
        # Weights are as good as random: what quantised tables cost in AUC says nothing here.
        wanted = Wanted(precision, dense, user_features=SHARED, check_rows=2_000, tolerance=1.0, auc_loss=1.0)
        export(config, metrics, folder / "run", folder / precision, wanted)
    return {precision: folder / precision for precision in precisions}


def requests(version: Path, signature: Sequence[Input], count: int, items: int, seed: int = 0) -> list[dict[str, Any]]:
    """Requests of random users for random videos, with every feature.

    Args:
        version: Of the model.
        signature: Its inputs.
        count: How many.
        items: Of each.
        seed: Of them.
    """
    random = np.random.default_rng(seed)
    schema = load_schema(version)
    rows = schema.table_rows()
    sparse = {feature.name: feature for feature in schema.sparse}
    encoder = Encoder(version, [sparse[each.name] for each in signature if not each.dense], sealed=True)

    def values(each: Input, number: int) -> list[Any]:
        if each.dense:
            return [float(x) for x in np.round(random.gamma(2.0, 20.0, number), 2)]
        return encoder.values(each.name, random.integers(1, rows[sparse[each.name].table], number).tolist())

    def request() -> dict[str, Any]:
        user = {each.name: values(each, 1)[0] for each in signature if each.of == "user"}
        columns = {each.name: values(each, items) for each in signature if each.of == "item"}
        return {
            "user": user,
            "items": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        }

    return [request() for _ in range(count)]
