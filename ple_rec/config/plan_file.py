"""`plan.json` as a file: a line a shard, so that two plans can be compared line by line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ple_rec.config.plan import PLAN_VERSION, Plan, TablePlan
from ple_rec.config.plan_memory import WIDTH
from ple_rec.config.problems import ConfigError, check
from ple_rec.config.words import shortened
from ple_rec.errors import UserError


def dump_plan(plan: Plan) -> str:
    """Its text."""
    content = plan.model_dump(mode="json", exclude={"tables"}, exclude_none=True)
    lines = [f'  "{key}": {_flat(value)}' for key, value in content.items()]
    tables = ",\n".join(_dump_table(table) for table in plan.tables)
    lines.append(f'  "tables": [\n{tables}\n  ]' if plan.tables else '  "tables": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _flat(value: Any) -> str:
    """A value of the plan's head: a table with a line a key."""
    text = json.dumps(value, indent=2)
    return text.replace("\n", "\n  ")


def _dump_table(table: TablePlan) -> str:
    content = table.model_dump(mode="json", exclude={"shards"}, exclude_none=True)
    head = [f"      {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    shards = ",\n".join(f"        {json.dumps(shard.model_dump())}" for shard in table.shards)
    return "    {\n" + ",\n".join([*head, f'      "shards": [\n{shards}\n      ]']) + "\n    }"


_WIDTHS: Mapping[str, int] = {str(name): width for name, width in WIDTH.items()}


def placements(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`world_size` and `tables` of a run's `plan.json`, of this version or the one before, damaged or not.

    A table has `table`, `rows`, `dim`, `bytes`, `sharding`, `kernel` and `ranks` as far as the file tells.
    """
    cluster = raw.get("cluster")
    if not isinstance(cluster, dict):
        return dict(raw)
    hosts, ranks = cluster.get("hosts"), cluster.get("ranks_per_host")
    world = hosts * ranks if isinstance(hosts, int) and isinstance(ranks, int) else None
    tables = raw.get("tables")
    listed = [_placement(table) for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
    return {"world_size": world, "tables": listed}


def _placement(table: Mapping[str, Any]) -> dict[str, Any]:
    shards = table.get("shards")
    ranks = [shard.get("rank") for shard in shards if isinstance(shard, dict)] if isinstance(shards, list) else []
    rows, dim, width = table.get("rows"), table.get("dim"), _WIDTHS.get(str(table.get("dtype")))
    taken = {}
    if isinstance(rows, int) and isinstance(dim, int) and width is not None:
        taken["bytes"] = rows * dim * width
    return {key: table.get(key) for key in ("table", "rows", "dim", "sharding", "kernel")} | taken | {"ranks": ranks}


def own_plan(file: Path) -> Plan | None:
    """The plan of a run directory; None where there is none, or one that is damaged or of an earlier version."""
    try:
        return load_plan(file)
    except UserError:
        return None


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        UserError: the file cannot be read, is not JSON, or is of another version.
        ConfigError: every problem of its content, together.
    """
    again = "make it with `ple-rec plan --out`"
    file = path / "plan.json" if path.is_dir() else path
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(str(file), error.strerror or str(error), "a plan is a readable JSON file", again) from None
    except (ValueError, RecursionError) as error:
        raise UserError(str(file), f"not JSON ({error})", "a plan is a JSON file", again) from None
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != PLAN_VERSION:
        value = "no version" if version is None else f"version {shortened(version)}"
        raise UserError(str(file), value, f"this ple_rec reads plans of version {PLAN_VERSION}", again)
    plan, problems = check(Plan, raw)
    if plan is None or problems:
        raise ConfigError.of(str(file), problems)
    return plan
