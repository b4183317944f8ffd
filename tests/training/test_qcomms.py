"""Exchanges of tables in fewer bits: what training makes of them, what the planner does, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ple_rec.config.load import dump_toml
from ple_rec.config.run import EmbeddingsConfig, QcommsConfig
from ple_rec.distributed.planner import make_plan
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.distributed.qcomms import qcomm_codecs
from ple_rec.errors import UserError
from tests.planning.samples import cluster, module_of
from tests.training.small import (
    SGD,
    on_ranks,
    records,
    relative,
    resumes,
    small_config,
    train_small,
    whole_tables,
    write_small,
)

# How far a table may end from that of fp32 after 4 steps, relative to its largest value.
CASES: dict[str, tuple[dict[str, str], float]] = {
    "fp32": ({}, 0.0),
    "bf16": ({"forward_precision": "bf16", "backward_precision": "bf16"}, 1e-4),
    "int8": ({"forward_precision": "int8", "backward_precision": "int8"}, 2e-3),
}


def _config(data: Path, qcomms: dict[str, str]) -> Any:
    """A row-wise table, whose rows are summed over the ranks, and others that are sent."""
    tables = {"sharding": "table_wise", "tables": {"item": {"sharding": "row_wise"}}}
    return small_config(data, SGD | {"embeddings": {"dim": 8, "qcomms": qcomms} | tables})


def _trained(rank: int, world_size: int, data: Path, runs: Path) -> dict[str, tuple[dict[str, Tensor], list[float]]]:
    found = {}
    for name, (qcomms, _) in CASES.items():
        tables = whole_tables(train_small(rank, world_size, _config(data, qcomms), runs / name).model)
        found[name] = (tables, [record["loss"] for record in records(runs / name)])
    return found


def test_training_differs_by_the_rounding_and_no_more(tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    found = on_ranks(_trained, 2, data, tmp_path / "runs")[0]
    tables, losses = found.pop("fp32")
    for name, (other, other_losses) in found.items():
        far = {table: relative(other[table], value) for table, value in tables.items()}
        assert set(far) == {"item", "tag", "user"}
        assert min(far.values()) > 0, (name, far)
        assert max(far.values()) < CASES[name][1], (name, far)
        assert other_losses != losses
        assert other_losses == pytest.approx(losses, rel=CASES[name][1])


def test_the_planner_counts_the_bytes_that_travel() -> None:
    hosts = cluster("h100", 2, 2)

    def costs(sharding: str, **qcomms: str) -> tuple[float, float]:
        config = EmbeddingsConfig.model_validate({"sharding": sharding, "dim": 64, "qcomms": qcomms})
        module = module_of({"t": 100_000}, config, "rowwise_adagrad", hosts)
        plan = make_plan(module, PlanningInputs(config, "rowwise_adagrad", hosts, 4096, {}))
        return plan.tables[0].costs_ms.output, plan.tables[0].costs_ms.gradient

    for sharding, width in (("table_wise", 4), ("row_wise", 2)):  # of int8: a row-wise table has fp16 and bf16 instead
        output, gradient = costs(sharding)
        assert costs(sharding, forward_precision="fp16") == pytest.approx((output / 2, gradient), rel=1e-3)
        assert costs(sharding, backward_precision="bf16") == pytest.approx((output, gradient / 2), rel=1e-3)
        eighths = {"forward_precision": "int8", "backward_precision": "int8"}
        assert costs(sharding, **eighths) == pytest.approx((output / width, gradient / width), rel=1e-3)


def test_int8_takes_whole_rows_of_its_codec() -> None:
    eighths = QcommsConfig(forward_precision="int8")
    with pytest.raises(UserError) as caught:
        qcomm_codecs(eighths, 12, [4, 8], 2)
    assert str(caught.value) == (
        "embeddings.qcomms: got int8 with 12 samples per rank and step; the codec needs whole rows of 32 values, so "
        "the batch size must be a multiple of 8. Fix: set train.batch_size_per_rank to a multiple of 8, or use fp16 or "
        "bf16"
    )
    assert qcomm_codecs(eighths, 12, [8], 2) is not None
    assert qcomm_codecs(eighths, 12, [4], 1) is not None  # one rank sends nothing
    assert qcomm_codecs(QcommsConfig(), 12, [4], 2) is None


def test_a_codec_gives_back_what_its_precision_holds() -> None:
    codecs = qcomm_codecs(QcommsConfig(forward_precision="bf16", backward_precision="fp16"), 8, [4], 2)
    assert codecs is not None
    values = torch.tensor([1 + 2**-9, 2**-30, 3e38])
    for pair in codecs.values():
        assert pair.forward.decode(pair.forward.encode(values)).tolist() == pytest.approx([1, 2**-30, 3e38], rel=2**-8)
        assert pair.backward.decode(pair.backward.encode(values)).tolist() == [1 + 2**-9, 0, 65504]


def test_a_run_goes_on_with_the_same_precision(tmp_path: Path) -> None:
    config = _config(tmp_path, {})
    (tmp_path / "config.toml").write_text(dump_toml(config))
    resumes(config, tmp_path)
    with pytest.raises(UserError, match=r"embeddings.qcomms.forward_precision was 'fp32', is 'fp16'"):
        resumes(_config(tmp_path, {"forward_precision": "fp16"}), tmp_path)
