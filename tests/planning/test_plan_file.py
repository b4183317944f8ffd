"""`plan.json`: written, read back, refused with every problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.plan import Plan
from ple_rec.config.plan_file import dump_plan, load_plan, own_plan, placements
from ple_rec.config.problems import ConfigError
from ple_rec.errors import UserError
from tests.planning.samples import cluster, planned


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned(cluster("h100", 2, 4))


def test_a_plan_comes_back_equal_with_a_line_a_shard(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(dump_plan(plan))
    assert load_plan(file) == plan
    assert load_plan(tmp_path) == plan
    assert own_plan(file) == plan
    text = file.read_text()
    assert json.loads(text)["tables"][0]["table"] == plan.tables[0].table
    lines = [line for line in text.splitlines() if line.strip().startswith('{"rank"')]
    assert len(lines) == sum(len(table.shards) for table in plan.tables)
    empty = plan.model_copy(update={"tables": ()})
    file.write_text(dump_plan(empty))
    assert load_plan(file) == empty


def _broken(plan: Plan, change: Any) -> str:
    raw = json.loads(dump_plan(plan))
    change(raw)
    return json.dumps(raw)


def _table(raw: dict[str, Any], name: str = "user_id", **changes: Any) -> Any:
    """A table of the raw plan, changed."""
    found = next(table for table in raw["tables"] if table["table"] == name)
    found.update(changes)
    return found


def _shards(raw: dict[str, Any], sharding: str, *shards: tuple[int, int, int, int, int]) -> None:
    keys = ("rank", "row", "rows", "column", "columns")
    _table(raw, "weekday", sharding=sharding, shards=[dict(zip(keys, shard, strict=True)) for shard in shards])


# `weekday` has 8 rows of 16 columns; the cluster has 2 hosts of 4 ranks.
HALVES = [(i, i, 1, 0, 16) for i in range(8)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: _table(raw, "weekday")["shards"].clear(), "table 'weekday' has no shard"),
        (
            lambda raw: _shards(raw, "table_wise", (0, 0, 8, 0, 16), (1, 0, 8, 0, 16)),
            "shard 1 is rows 0 to 8, columns 0 to 16 on rank 1; it must be nothing more",
        ),
        (
            lambda raw: _shards(raw, "table_wise", (0, 0, 7, 0, 16)),
            "shard 0 is rows 0 to 7, columns 0 to 16 on rank 0; it must be rows 0 to 8",
        ),
        (
            lambda raw: _shards(raw, "row_wise", *HALVES[:3], (4, 3, 1, 0, 16), (3, 4, 1, 0, 16), *HALVES[5:]),
            "shard 3 is rows 3 to 4, columns 0 to 16 on rank 4; it must be rows 3 to 4, columns 0 to 16 on rank 3",
        ),
        (lambda raw: _shards(raw, "row_wise", *HALVES[:7]), "shard 7 is nothing more; it must be rows 7 to 8"),
        (
            lambda raw: _shards(raw, "table_row_wise", *[(i + 2, 2 * i, 2, 0, 16) for i in range(4)]),
            "begins on rank 2; a host's ranks begin at a multiple of 4",
        ),
        (
            lambda raw: _shards(
                raw, "table_row_wise", (4, 0, 3, 0, 16), (5, 3, 1, 0, 16), (6, 4, 2, 0, 16), (7, 6, 2, 0, 16)
            ),
            "shard 0 is rows 0 to 3, columns 0 to 16 on rank 4; it must be rows 0 to 2",
        ),
        (
            lambda raw: _shards(raw, "column_wise", (0, 0, 8, 0, 8), (1, 0, 8, 4, 8)),
            "shard 1 is rows 0 to 8, columns 4 to 12 on rank 1; it must be rows 0 to 8, columns from 8 on",
        ),
        (lambda raw: _shards(raw, "column_wise", (0, 0, 8, 0, 8)), "its shards have 8 columns, of 16"),
        (lambda raw: _shards(raw, "column_wise", (0, 0, 4, 0, 16), (1, 4, 4, 0, 16)), "shard 0 is rows 0 to 4"),
        (
            lambda raw: _table(raw, kernel="fused_uvm_caching"),
            "cache_load_factor goes with kernel fused_uvm_caching alone",
        ),
        (lambda raw: raw["tables"].append(raw["tables"][0]), "stands there twice"),
        (lambda raw: raw["tables"][0]["shards"][0].update(rank=99), "has a shard on rank 99; the cluster has 8 ranks"),
        (lambda raw: raw["tables"][0].update(sharding="diagonal"), 'tables[0].sharding: got "diagonal"'),
        (lambda raw: raw.update(extra=1), "extra: unknown key"),
        (lambda raw: raw["cluster"].update(hosts=0), "cluster.hosts: got 0; must be > 0"),
        (lambda raw: raw["cluster"].update(hosts=10**9), "4,000,000,000 ranks; a plan has at most 65,536"),
    ],
)
def test_a_plan_that_breaks_a_rule_is_refused(plan: Plan, tmp_path: Path, change: Any, said: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(_broken(plan, change))
    with pytest.raises(ConfigError) as caught:
        load_plan(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory; a plan is a readable JSON file. Fix: make it with `ple-rec plan --out`"),
        ("{", "not JSON ("),
        ("[" * 100_000, "not JSON ("),
        ('{"version": 1, "tables": []}', "version 1; this ple_rec reads plans of version 2"),
        ("[]", "no version; this ple_rec reads plans of version 2"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "plan.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError) as caught:
        load_plan(file)
    assert str(caught.value).startswith(f"{file}: {said}")
    assert own_plan(file) is None  # a run that goes on plans anew


def test_runs_of_both_versions_say_where_their_tables_were(plan: Plan) -> None:
    old = {"version": 1, "world_size": 2, "tables": [{"table": "a", "rows": 3, "dim": 4, "bytes": 48, "ranks": [1]}]}
    assert placements(old) == old
    new = placements(json.loads(dump_plan(plan)))
    assert new["world_size"] == 8
    user = next(table for table in new["tables"] if table["table"] == "user_id")
    assert (user["rows"], user["dim"], user["bytes"]) == (46_926_001, 16, 46_926_001 * 64)
    assert user["ranks"] == list(next(t for t in plan.tables if t.table == "user_id").ranks)
    damaged = {"cluster": {"hosts": "two"}, "tables": [{"shards": 3}, 4]}
    assert placements(damaged) == {
        "world_size": None,
        "tables": [dict.fromkeys(("table", "rows", "dim", "sharding", "kernel")) | {"ranks": []}],
    }
