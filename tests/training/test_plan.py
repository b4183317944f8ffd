"""Training by a plan that was made before: used as it is, or refused with what differs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.plan import PlanFile, dump_plan, load_plan
from ple_rec.config.run import RunConfig
from ple_rec.distributed.capacity import DoesNotFitError
from ple_rec.distributed.collectives import PeerError
from ple_rec.distributed.plan_check import SavedPlan
from ple_rec.distributed.planner import ModelSizes, check_sizes
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.distributed.topology import detect_cluster
from ple_rec.errors import UserError
from ple_rec.planning.plan_input import describe_dataset, plan_run
from ple_rec.training import context
from ple_rec.training.context import build_context
from tests.planning.samples import cluster
from tests.training.small import on_ranks, ranks_of, small_config, write_small


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("plan") / "data")


def _offline(config: RunConfig, ranks: int = 2, **hardware: Any) -> PlanFile:
    return plan_run(config, describe_dataset(config), cluster("cpu", 1, ranks, **hardware))


def _moved(plan: PlanFile) -> PlanFile:
    """Every table-wise table on the other of two ranks."""
    raw = json.loads(dump_plan(plan))
    for table in raw["tables"]:
        assert table["sharding"] == "table_wise"
        table["rank"] = 1 - table["rank"]
    return PlanFile.model_validate_json(json.dumps(raw))


def _assembled(rank: int, world_size: int, config: RunConfig, givens: dict[str, SavedPlan]) -> dict[str, Any]:
    """By name: the plan that a rank trained by, or what it was told."""
    found: dict[str, Any] = {}
    for name, given in givens.items():
        try:
            job = build_context(config, ranks_of(rank, world_size), given)
        except (UserError, PeerError) as error:
            found[name] = str(error)
        else:
            built = {
                table: list(p.ranks or []) for module in job.model.plan.plan.values() for table, p in module.items()
            }
            assert built == {table.table: list(job.plan.ranks_of(table)) for table in job.plan.tables}
            found[name] = job.plan
    return found


def test_a_given_plan_is_used_or_refused_with_every_difference(data: Path) -> None:
    config = small_config(data, {"embeddings": {"dim": 4, "sharding": "table_wise"}})
    plan = _offline(config)
    moved = _moved(plan)
    wide = small_config(data, {"embeddings": {"dim": 8, "sharding": "table_wise"}})
    rows = small_config(data, {"embeddings": {"dim": 4, "sharding": "row_wise"}})
    batch = small_config(data, {"train": {"batch_size": 48, "steps": 4}})
    sgd = small_config(data, {"table_optimizer": {"kind": "sgd"}})
    less = small_config(data, {"data": {"path": str(data), "virtual_shards": 12, "drop": ["user"]}})
    heavy = tuple(t.model_copy(update={"ids_per_sample": (1e9,) * len(t.ids_per_sample)}) for t in moved.tables)
    large = moved.model_copy(update={"tables": heavy})
    cut = small_config(data, {"embeddings": {"dim": 4, "sharding": "column_wise"}})
    given = {
        "moved": SavedPlan(moved, "p", strict=True),
        "four ranks": SavedPlan(_offline(config, 4), "p", strict=True),
        "wide": SavedPlan(_offline(wide), "p", strict=True),
        "batch": SavedPlan(_offline(batch), "p", strict=True),
        "sgd": SavedPlan(_offline(sgd), "p", strict=True),
        "less": SavedPlan(_offline(less), "p", strict=True),
        "large": SavedPlan(large, "p", strict=True),
        "cut": SavedPlan(_offline(cut), "p", strict=True),
        "own, cut": SavedPlan(_offline(cut), "p", strict=False),
        "own, of four ranks": SavedPlan(_offline(config, 4), "p", strict=False),
    }
    first, second = on_ranks(_assembled, 2, config, given)
    assert {name: value for name, value in first.items() if isinstance(value, PlanFile)} == {
        name: value for name, value in second.items() if isinstance(value, PlanFile)
    }
    refused = {name for name, value in first.items() if not isinstance(value, PlanFile)}
    assert {second[name] for name in refused} == {"rank 0 failed with exit code 2"}
    assert first["moved"] == moved
    assert first["moved"].tables != plan.tables
    assert first["own, of four ranks"].tables == plan.tables
    names = {
        "four ranks": "p: planned for 1 host x 4 CPU ranks, 4 rank(s); this run has 1 host x 2 CPU ranks; the batch "
        "size per rank was 6, is 12; a plan can be used only with the tables",
        "wide": "p: table item was 40 x 8 fp32, is 40 x 4 fp32; table tag was ",
        "batch": "p: the batch size per rank was 24, is 12; ",
        "sgd": "p: the tables' optimizer was sgd, is rowwise_adagrad; ",
        "less": "p: table user is new; a plan ",
        "large": "p: a rank of the plan takes ",
        "cut": "p: the plan shards table item column-wise, which changes its optimizer, but the configuration does ",
        "own, cut": "p: the plan shards table item column-wise, ",
    }
    for name, start in names.items():
        assert first[name].startswith(start), first[name]
    assert first["wide"].endswith("Fix: make a new plan with this configuration and cluster, or change them back")
    (told,) = on_ranks(_assembled, 1, rows, {"rows": SavedPlan(_offline(rows, 1), "p", strict=True)})
    assert isinstance(told["rows"], PlanFile)


def test_a_constraint_that_the_plan_does_not_keep_is_named(data: Path) -> None:
    plan = _offline(small_config(data, {"embeddings": {"dim": 4, "sharding": "table_wise"}}), 1)
    wanted = {"item": {"sharding": "row_wise"}, "user": {"hosts": [0]}}
    config = small_config(data, {"embeddings": {"dim": 4, "tables": wanted}})
    (told,) = on_ranks(_assembled, 1, config, {"p": SavedPlan(plan, "p", strict=True)})
    assert told["p"].startswith("p: embeddings.tables.item.sharding is row_wise, the plan has table_wise; a plan ")


def test_a_plan_that_is_written_and_read_is_the_one_that_is_used(data: Path, tmp_path: Path) -> None:
    config = small_config(data, {"embeddings": {"dim": 4, "sharding": "table_wise"}})
    file = tmp_path / "plan.json"
    file.write_text(dump_plan(_moved(_offline(config))))
    (found, _) = on_ranks(_assembled, 2, config, {"file": SavedPlan(load_plan(file), str(file), strict=True)})
    assert found["file"] == load_plan(file)


def _refusal_without_a_model(rank: int, world_size: int, config: RunConfig) -> str:
    def build(*_: object) -> None:
        raise AssertionError("a model of this size would take all memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "build_unsharded_model", build)
        with pytest.raises((UserError, PeerError)) as caught:
            context.build_evaluation_context(config, ranks_of(rank, world_size))
    return str(caught.value)


WIDE_LAYERS = {"variant": "hard_sharing", "bottom": [8, 10**12], "tower": {"hidden": [4]}}
WIDE_TOWERS = {"variant": "hard_sharing", "bottom": [8], "tower": {"hidden": [10**12]}}


@pytest.mark.parametrize(
    "changes",
    [
        {"embeddings": {"dim": 4 * 10**12}},
        {"model": WIDE_LAYERS},
        {"model": WIDE_TOWERS},
    ],
)
def test_what_does_not_fit_this_machine_is_refused_before_a_model_is_built(data: Path, changes: dict[str, Any]) -> None:
    raw = json.loads(small_config(data).model_dump_json(exclude_none=True)) | changes
    first, second = on_ranks(_refusal_without_a_model, 2, RunConfig.model_validate_json(json.dumps(raw)))
    assert re.match(
        r"embeddings\.dim, model: the dense layers, which read all embeddings, take at least [\d,.]+ GiB of host "
        r"memory on each rank; .* fit its [\d.]+ GiB of host memory less .*Fix: use a smaller embeddings\.dim, or ",
        first,
    ), first
    assert second == "rank 0 failed with exit code 2"


def test_dense_layers_of_a_model_without_tables_are_refused_too(data: Path) -> None:
    config = small_config(data)
    request = PlanningInputs(config.embeddings, config.table_optimizer.kind, detect_cluster(ranks_of(0, 1)), 8, {})
    with pytest.raises(DoesNotFitError, match="the dense layers, which read all embeddings, take at least 186,264"):
        check_sizes(ModelSizes([], 10**13), request)
    check_sizes(ModelSizes([], 10**3), request)
