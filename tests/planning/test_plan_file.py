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


def _overlap(raw: dict[str, Any]) -> None:
    user = next(table for table in raw["tables"] if table["table"] == "user_id")
    user["shards"] = [user["shards"][0] | {"row": 0, "rows": 46_926_001}, user["shards"][0] | {"row": 1, "rows": 1}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw["tables"][3]["shards"].pop(), "its shards hold 0 values"),
        (_overlap, "some of them twice"),
        (lambda raw: raw["tables"][0]["shards"][0].update(rows=10**9), "rows 0 to 1000000000"),
        (lambda raw: raw["tables"][0]["shards"][0].update(rank=99), "has a shard on rank 99; the cluster has 8 ranks"),
        (lambda raw: raw["tables"][0].update(sharding="diagonal"), 'tables[0].sharding: got "diagonal"'),
        (lambda raw: raw.update(extra=1), "extra: unknown key"),
        (lambda raw: raw["cluster"].update(hosts=0), "cluster.hosts: got 0; must be > 0"),
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
    assert own_plan(file) is None


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
