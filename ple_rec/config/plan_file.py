"""`plan.json` as a file: a line a table, so that two plans can be compared line by line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ple_rec.config.plan import PLAN_VERSION, Plan
from ple_rec.config.plan_memory import WIDTH
from ple_rec.config.plan_table import Shard, where_of
from ple_rec.config.problems import ConfigError, check
from ple_rec.config.words import shortened
from ple_rec.errors import UserError
from ple_rec.storage import Location, short

_LISTED_SHARDS = 2  # version whose tables list their shards


def dump_plan(plan: Plan) -> str:
    """Return the text of a plan."""
    content = plan.model_dump(mode="json", exclude={"tables"}, exclude_none=True)
    lines = [f'  "{key}": {_flat(value)}' for key, value in content.items()]
    tables = ",\n".join(f"    {json.dumps(table.model_dump(exclude_none=True))}" for table in plan.tables)
    lines.append(f'  "tables": [\n{tables}\n  ]' if plan.tables else '  "tables": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _flat(value: Any) -> str:
    """Return the text of a value of the plan's head: a table with a line a key."""
    text = json.dumps(value, indent=2)
    return text.replace("\n", "\n  ")


def placements(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return `world_size` and `tables` of a run's `plan.json`, of any version, damaged or not.

    A table has `table`, `rows`, `dim`, `bytes`, `sharding`, `kernel` and `ranks` as far as the file tells.
    """
    cluster, tables = raw.get("cluster"), raw.get("tables")
    if not isinstance(cluster, dict):
        return dict(raw)
    hosts, ranks_per_host = cluster.get("hosts"), cluster.get("ranks_per_host")
    world = hosts * ranks_per_host if isinstance(hosts, int) and isinstance(ranks_per_host, int) else None
    listed = [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
    return {"world_size": world, "tables": [_placement(table, raw) for table in listed]}


def _placement(table: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    plan, _ = _parsed({**raw, "tables": [table], "estimate": None})  # alone, for another may be damaged
    ranks = [] if plan is None else list(plan.ranks_of(plan.tables[0]))
    rows, dim, width = table.get("rows"), table.get("dim"), _WIDTHS.get(str(table.get("dtype")))
    taken = {}
    if isinstance(rows, int) and isinstance(dim, int) and width is not None:
        taken["bytes"] = rows * dim * width
    return {key: table.get(key) for key in ("table", "rows", "dim", "sharding", "kernel")} | taken | {"ranks": ranks}


_WIDTHS: Mapping[str, int] = {str(name): width for name, width in WIDTH.items()}


def _parsed(raw: Mapping[str, Any]) -> tuple[Plan | None, list[str]]:
    """Return the plan that a document makes, as far as it makes one, and every problem of the document."""
    if raw.get("version") != _LISTED_SHARDS:
        return check(Plan, raw)
    try:
        shards = [tuple(Shard(**shard) for shard in table["shards"]) for table in raw["tables"]]
        ranks_per_host = raw["cluster"]["ranks_per_host"]
        tables = [
            {key: value for key, value in table.items() if key != "shards"}
            | where_of(table["sharding"], [shard.rank for shard in own], ranks_per_host)
            for table, own in zip(raw["tables"], shards, strict=True)
        ]
    except (LookupError, TypeError, ArithmeticError):
        return None, [f"tables: in version {_LISTED_SHARDS}, each has a sharding and a list of shards"]
    plan, problems = check(Plan, {**raw, "version": PLAN_VERSION, "tables": tables})
    if plan is not None:
        problems += [
            f"table {table.table!r}, {table.sharding}: its shards are not as TorchRec builds them"
            for table, own in zip(plan.tables, shards, strict=True)
            if table.shards(plan.cluster) != own
        ]
    return plan, problems


def own_plan(file: Location) -> Plan | None:
    """Return the plan of a run directory; None where there is none, or one that is damaged or of version 1."""
    try:
        return load_plan(file)
    except UserError:
        return None


def load_plan(path: Location) -> Plan:
    """Read a plan: a file, or that of a run directory; an address of a store is either, too.

    Raises:
        UserError: the file cannot be read, is not JSON, or is of another version.
        ConfigError: every problem of its content, together.
    """
    again = "make it with `ple-rec plan --out`"
    file = path
    try:
        if path.is_dir():
            file = path / "plan.json"
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(str(file), error.strerror or short(error), "a plan is a readable JSON file", again) from None
    except (ValueError, RecursionError) as error:
        raise UserError(str(file), f"not JSON ({error})", "a plan is a JSON file", again) from None
    version = raw.get("version") if isinstance(raw, dict) else None
    if version not in (_LISTED_SHARDS, PLAN_VERSION):
        value = "no version" if version is None else f"version {shortened(version)}"
        rule = f"this ple_rec reads plans of versions {_LISTED_SHARDS} and {PLAN_VERSION}"
        raise UserError(str(file), value, rule, again)
    plan, problems = _parsed(raw)
    if plan is None or problems:
        raise ConfigError.of(str(file), problems)
    return plan
