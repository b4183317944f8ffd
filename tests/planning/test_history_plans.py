"""`ple-rec plan` of a run with a history: the ids of its tables, with a dataset and without, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ple_rec.config.run import RunConfig
from ple_rec.planning.plan_input import describe_dataset, plan_run
from ple_rec.planning.roofline import roofline
from ple_rec.planning.text import format_plan
from ple_rec.planning.workload import sample_work
from tests.histories import LENGTH, ROWS, write_histories
from tests.planning.samples import cluster
from tests.training.small import small_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The dataset, and the mean length of its history."""
    folder = tmp_path_factory.mktemp("history_plans") / "data"
    columns = write_histories(folder)
    return folder, float((columns["liked_end"] - columns["liked_begin"])[: ROWS["train"]].mean())


def _config(data: Path, history: str, sharding: str | None = None) -> RunConfig:
    config = small_config(data, {"embeddings": {"dim": 8} | ({"sharding": sharding} if sharding else {})})
    return config.model_copy(update={"model": config.model.model_copy(update={"history": history})})


def test_a_history_has_its_mean_length_or_without_a_dataset_its_largest(data: tuple[Path, float]) -> None:
    folder, mean = data
    config, on = _config(folder, "din"), cluster("h100", 1, 2)
    assert 1 < mean < LENGTH
    for schema, ids in ((None, mean), (str(folder / "schema.toml"), float(LENGTH))):
        plan = plan_run(config, describe_dataset(config, schema), on)
        tables = {table.table: table for table in plan.tables}
        assert tables["video"].ids_per_sample == (1.0, ids)
        assert tables["liked_age"].ids_per_sample == (ids,)
        assert {name for name, table in tables.items() if table.unpooled} == {"video", "author", "tab", "liked_age"}
        text = format_plan(plan, config)
        assert (
            f"unpooled, since attention reads single rows, {3 + 4 * ids:.4g} a sample: author, liked_age, tab, video"
            in text
        )
    pooled = plan_run(_config(folder, "mean"), describe_dataset(config), on)
    assert not any(table.unpooled for table in pooled.tables)
    assert "unpooled" not in format_plan(pooled, config)


def test_a_plan_names_the_tables_that_cannot_have_the_sharding_of_all(data: tuple[Path, float]) -> None:
    config = _config(data[0], "din", "table_row_wise")
    plan = plan_run(config, describe_dataset(config), cluster("h100", 2, 2))
    assert {table.table for table in plan.tables if table.sharding == "table_row_wise"} == {"user"}
    text = format_plan(plan, config)
    assert "not table_row_wise, which returns no single rows: author, liked_age, tab, video" in text
    assert "leave a rank without a row" not in text


def test_the_roofline_counts_the_row_of_each_event(data: tuple[Path, float]) -> None:
    folder, mean = data
    on = cluster("h100", 1, 2)
    values = {}
    for history in ("mean", "din"):
        config = _config(folder, history)
        work = sample_work(config, describe_dataset(config), on)
        values[history] = sum(feature.values for feature in work.features)
        demands = {d.part: d.amount for d in roofline(work, on, 64).demands if d.resource == "NVLink"}
        share = 2 * -(-len(work.features) // 2) / len(work.features) / 2
        assert demands["pooled rows"] == pytest.approx(share * 4 * values[history])
    assert values["mean"] == 8 * 8  # user, three items of the row, three of the history, its ages
    assert values["din"] == pytest.approx(8 * (4 + 4 * mean))
