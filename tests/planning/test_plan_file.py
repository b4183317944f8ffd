"""`plan.json`: written, read back, refused with every problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.plan import PlanFile, dump_plan, load_plan, load_valid_plan, read_placements
from ple_rec.config.plan_table import RowWise
from ple_rec.config.problems import ConfigError
from ple_rec.errors import UserError
from tests.planning.samples import cluster, planned


@pytest.fixture(scope="module")
def plan() -> PlanFile:
    return planned(cluster("h100", 2, 4))


def test_a_plan_comes_back_equal_with_a_line_a_table(plan: PlanFile, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(dump_plan(plan))
    assert load_plan(file) == plan
    assert load_plan(tmp_path) == plan
    assert load_valid_plan(file) == plan
    text = file.read_text()
    assert json.loads(text)["tables"][0]["table"] == plan.tables[0].table
    lines = [json.loads(line.rstrip(",")) for line in text.splitlines() if line.startswith('    {"table"')]
    assert [line["table"] for line in lines] == [table.table for table in plan.tables]
    empty = plan.model_copy(update={"tables": ()})
    file.write_text(dump_plan(empty))
    assert load_plan(file) == empty


# `weekday` has 8 rows of 16 columns; the cluster has 2 hosts of 4 ranks.
@pytest.mark.parametrize(
    ("where", "shards"),
    [
        ({"sharding": "table_wise", "rank": 5}, [(5, 0, 8, 0, 16)]),
        ({"sharding": "row_wise"}, [(i, i, 1, 0, 16) for i in range(8)]),
        ({"sharding": "table_row_wise", "host": 1}, [(4 + i, 2 * i, 2, 0, 16) for i in range(4)]),
        ({"sharding": "column_wise", "ranks": [3, 3, 0, 7]}, [(r, 0, 8, 4 * i, 4) for i, r in enumerate((3, 3, 0, 7))]),
    ],
)
def test_shards_follow_from_a_placement_and_version_2_which_lists_them_is_read(
    plan: PlanFile, tmp_path: Path, where: dict[str, Any], shards: list[tuple[int, ...]]
) -> None:
    raw = json.loads(dump_plan(plan))
    _placed(raw, where)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(raw))
    found = load_plan(file)
    weekday = next(table for table in found.tables if table.table == "weekday")
    assert list(weekday.shards(found.cluster)) == shards
    file.write_text(json.dumps(_version_2(found)))
    assert load_plan(file) == found


def test_rows_that_do_not_divide_leave_the_last_ranks_fewer_or_none(plan: PlanFile) -> None:
    (weekday,) = (table for table in plan.tables if table.table == "weekday")
    raw = weekday.model_dump(exclude={"sharding", "rank", "host", "ranks"}) | {"rows": 5, "sharding": "row_wise"}
    table = RowWise.model_validate(raw)
    rows = [(shard.row, shard.rows) for shard in table.shards(cluster("h100", 1, 4))]
    assert rows == [(0, 2), (2, 2), (4, 1), (5, 0)]


def _version_2(plan: PlanFile) -> dict[str, Any]:
    """A plan as version 2 had it: every table lists its shards."""
    raw: dict[str, Any] = json.loads(dump_plan(plan)) | {"version": 2}
    for table, placed in zip(raw["tables"], plan.tables, strict=True):
        for key in ("rank", "host", "ranks"):
            table.pop(key, None)
        table["shards"] = [shard._asdict() for shard in placed.shards(plan.cluster)]
    return raw


def _broken(plan: PlanFile, change: Any) -> str:
    raw = json.loads(dump_plan(plan))
    change(raw)
    return json.dumps(raw)


def _table(raw: dict[str, Any], name: str = "user_id", **changes: Any) -> Any:
    """A table of the raw plan, changed."""
    found = next(table for table in raw["tables"] if table["table"] == name)
    found.update(changes)
    return found


def _placed(raw: dict[str, Any], where: dict[str, Any]) -> None:
    table = _table(raw, "weekday")
    for key in ("rank", "host", "ranks"):
        table.pop(key, None)
    table.update(where)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: _placed(raw, {"sharding": "table_wise"}), "tables[23].rank: missing"),
        (lambda raw: _placed(raw, {"sharding": "row_wise", "rank": 1}), "tables[23].rank: unknown key"),
        (
            lambda raw: _placed(raw, {"sharding": "table_wise", "rank": 99}),
            "table 'weekday' has a shard on rank 99; the cluster has 8 ranks",
        ),
        (lambda raw: _placed(raw, {"sharding": "table_row_wise", "host": 2}), "has a shard on rank 11; the cluster"),
        (
            lambda raw: _placed(raw, {"sharding": "column_wise", "ranks": [0, 1, 2]}),
            "table 'weekday', column_wise: 16 columns in 3 shard(s); all shards have the same number of columns, a",
        ),
        (lambda raw: _placed(raw, {"sharding": "column_wise", "ranks": []}), "ranks: got []; must have"),
        (
            lambda raw: _table(raw, kernel="fused_uvm_caching"),
            "cache_load_factor is for kernel fused_uvm_caching, which needs it",
        ),
        (lambda raw: raw["tables"].append(raw["tables"][0]), "is listed twice"),
        (lambda raw: raw["tables"][0].update(sharding="diagonal"), 'tables[0].sharding: got "diagonal"'),
        (lambda raw: raw.update(extra=1), "extra: unknown key"),
        (lambda raw: raw["cluster"].update(hosts=0), "cluster.hosts: got 0; must be > 0"),
        (lambda raw: raw["cluster"].update(hosts=10**9), "4,000,000,000 ranks; a plan has at most 65,536"),
    ],
)
def test_a_plan_that_breaks_a_rule_is_refused(plan: PlanFile, tmp_path: Path, change: Any, said: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(_broken(plan, change))
    with pytest.raises(ConfigError) as caught:
        load_plan(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table["shards"].pop(), "in version 2, each has a sharding and a list of shards"),
        (lambda table: table.pop("shards"), "in version 2, each has a sharding and a list of shards"),
        (lambda table: table["shards"][0].update(more=1), "in version 2, each has a sharding and a list of shards"),
        (lambda table: table["shards"][0].update(rank=1.0), ".rank: got 1.0"),
        (lambda table: table["shards"][0].update(rank=99), "has a shard on rank 99; the cluster has 8 ranks"),
        (
            lambda table: table["shards"].append(table["shards"][0]),
            ", table_wise: its shards are not those that TorchRec builds",
        ),
        (
            lambda table: table["shards"][0].update(rows=7),
            ", table_wise: its shards are not those that TorchRec builds",
        ),
        (lambda table: table.update(sharding="row_wise"), ", row_wise: its shards are not those that TorchRec builds"),
        (lambda table: table.update(sharding="diagonal"), 'sharding: got "diagonal"'),
    ],
)
def test_shards_of_version_2_that_no_sharding_has_are_refused(
    plan: PlanFile, tmp_path: Path, change: Any, said: str
) -> None:
    raw = json.loads(dump_plan(plan))
    _placed(raw, {"sharding": "table_wise", "rank": 5})
    old = _version_2(PlanFile.model_validate_json(json.dumps(raw)))
    change(_table(old, "weekday"))
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(old))
    with pytest.raises(ConfigError) as caught:
        load_plan(file)
    assert said in str(caught.value)
    assert load_valid_plan(file) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory; a plan is a readable JSON file. Fix: make it with `ple-rec plan --out`"),
        ("{", "not JSON ("),
        ("[" * 100_000, "not JSON ("),
        ('{"version": 1, "tables": []}', "version 1; this ple_rec reads plans of versions 2 and 3"),
        ("[]", "no version; this ple_rec reads plans of versions 2 and 3"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "plan.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError) as caught:
        load_plan(file)
    assert str(caught.value).startswith(f"{file}: {said}")
    assert load_valid_plan(file) is None  # a run that goes on plans anew


def test_runs_of_every_version_say_where_their_tables_were(plan: PlanFile) -> None:
    old = {"version": 1, "world_size": 2, "tables": [{"table": "a", "rows": 3, "dim": 4, "bytes": 48, "ranks": [1]}]}
    assert read_placements(old) == old
    new = read_placements(json.loads(dump_plan(plan)))
    assert new["world_size"] == 8
    user = next(table for table in new["tables"] if table["table"] == "user_id")
    assert (user["rows"], user["dim"], user["bytes"]) == (46_926_001, 16, 46_926_001 * 64)
    assert user["ranks"] == list(plan.ranks_of(next(t for t in plan.tables if t.table == "user_id")))
    assert read_placements(_version_2(plan)) == new
    for raw in (json.loads(dump_plan(plan)), _version_2(plan)):
        raw["tables"][0]["rows"] = raw["estimate"] = None
        found = read_placements(raw)["tables"]
        assert found[0]["ranks"] == []
        assert found[1:] == new["tables"][1:]
    damaged = {"cluster": {"hosts": "two"}, "tables": [{"shards": 3}, 4]}
    for version in ({}, {"version": 2}, {"version": 3}):
        assert read_placements(damaged | version) == {
            "world_size": None,
            "tables": [dict.fromkeys(("table", "rows", "dim", "sharding", "kernel")) | {"ranks": []}],
        }
