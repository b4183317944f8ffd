"""What the ranks measured, put together, and what is claimed of it. A claim that does not hold is told as such."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from data_prep.synthetic.columns import table_rows
from ple_rec.bench.tables_plan import Plan
from ple_rec.bench.tables_slice import world_of

STARTUP_SECONDS = 60.0
FLAT = 1.2
_SLACK, _FIXED = 1.15, 1 << 30  # of shard bytes, and beside them

Record = dict[str, Any]


def bound_bytes(shards: int) -> int:
    """The most that a rank may take: 1.15 shards + 1 GiB, `shards` in bytes with the optimizer's state."""
    return int(_SLACK * shards) + _FIXED


def size_record(plan: Plan, ranks: Sequence[Record]) -> Record:
    """A size: of each step the slower rank, of memory and start-up the worst rank.

    Args:
        plan: Of the size.
        ranks: What `tables_rank` measured, by rank.
    """
    rows = table_rows(world_of(plan.users))
    shares = {table: max(rank["held"][table][0] / count for rank in ranks) for table, count in rows.items()}
    largest = max(shares, key=lambda table: shares[table])
    worst = max(ranks, key=lambda rank: int(rank["peak_bytes"]) / bound_bytes(_shards(rank)))
    return {
        "users": plan.users,
        "videos": rows["video_id"] - 1,
        "dim": plan.dim,
        "ranks": plan.ranks,
        "threads": ranks[0]["threads"],
        "table_bytes": sum(rows.values()) * plan.dim * 4,
        "user_table_bytes": rows["user_id"] * plan.dim * 4,
        "shard_bytes": [rank["shard_bytes"] for rank in ranks],
        "state_bytes": [rank["state_bytes"] for rank in ranks],
        "step_ms": _spread(_slowest(rank["step_ms"] for rank in ranks)),
        "cpu_ms": _spread(_slowest(rank["cpu_ms"] for rank in ranks)),
        "tables_ms": _spread(_slowest([rank["tables_ms"]] for rank in ranks)),
        "samples": plan.batch_size * plan.ranks,
        "sample_bytes": ranks[0]["sample_bytes"],
        "copy_gb_per_second": sum(rank["copy_gb_per_second"] for rank in ranks),
        "startup_seconds": max(rank["startup_seconds"] for rank in ranks),
        "assembled_seconds": max(rank["assembled_seconds"] for rank in ranks),
        "peak_bytes": worst["peak_bytes"],
        "bound_bytes": bound_bytes(_shards(worst)),
        "largest_share": {"table": largest, "share": shares[largest]},
        "user_share": shares["user_id"],
    }


def claims_of(sizes: Sequence[Record]) -> list[Record]:
    """The four claims over all sizes; that of whole tables needs two ranks, that of flatness two sizes."""
    last = max(sizes, key=lambda size: int(size["users"]))
    claims = []
    if last["ranks"] > 1:
        most = max(sizes, key=lambda size: float(size["largest_share"]["share"]))["largest_share"]
        text = (
            f"no rank holds a whole table: at most {most['share']:.3f} of one ({most['table']}) and "
            f"{max(size['user_share'] for size in sizes):.3f} of the users'"
        )
        if last["user_table_bytes"] > _FIXED:  # else the rest of a process is larger, and its peak says nothing
            less = "less" if last["peak_bytes"] < last["user_table_bytes"] else "NO LESS"
            text += (
                f"; its peak at {last['users']:,} rows, {_gib(last['peak_bytes'])}, is {less} than the users' table "
                f"alone, {_gib(last['user_table_bytes'])}"
            )
        claims.append(_claim("largest_share_of_a_table", most["share"], most["share"] < 1, text))
    claims += [_memory("peak_of_bound", sizes), _startup("startup_seconds", sizes)]
    if len(sizes) > 1:
        ratio, cpu = (_ratio([size[key]["median"] for size in sizes]) for key in ("step_ms", "cpu_ms"))
        users = [size["users"] for size in sizes]
        text = (
            f"a step costs the same at {min(users):,} to {max(users):,} user rows within {FLAT - 1:.0%}: the slowest "
            f"median is {ratio:.3f} of the fastest ({cpu:.3f} in processor time)"
        )
        claims.append(_claim("step_ratio", ratio, ratio <= FLAT, text))
    return claims


def wide_claims(size: Record) -> list[Record]:
    """Memory and start-up of the last run."""
    name = f"dim_{size['dim']}"
    return [_memory(f"{name}_peak_of_bound", [size]), _startup(f"{name}_startup_seconds", [size])]


def _memory(name: str, sizes: Sequence[Record]) -> Record:
    worst = max(sizes, key=lambda size: float(size["peak_bytes"] / size["bound_bytes"]))
    text = (
        f"peak memory of a rank is within 1.15 of its shards + 1 GiB: {_gib(worst['peak_bytes'])} of "
        f"{_gib(worst['bound_bytes'])}{_where(worst)}"
    )
    share = worst["peak_bytes"] / worst["bound_bytes"]
    return _claim(name, share, share <= 1, text)


def _startup(name: str, sizes: Sequence[Record]) -> Record:
    worst = max(sizes, key=lambda size: float(size["startup_seconds"]))
    seconds = worst["startup_seconds"]
    text = (
        f"start-up, from the launcher's start to the end of the first step, takes less than {STARTUP_SECONDS:.0f} s: "
        f"{seconds:.1f} s at most{_where(worst)}"
    )
    return _claim(name, seconds, seconds < STARTUP_SECONDS, text)


def _ratio(values: Sequence[float]) -> float:
    return max(values) / min(values)


def _where(size: Record) -> str:
    return f", at {size['users']:,} x {size['dim']} on {size['ranks']} rank(s)"


def _claim(name: str, value: float, holds: bool, text: str) -> Record:
    return {"name": name, "value": round(value, 4), "holds": holds, "text": text}


def _shards(rank: Record) -> int:
    return int(rank["shard_bytes"]) + int(rank["state_bytes"])


def _slowest(ranks: Iterable[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Of each pass of each turn the time of the slower rank."""
    return [[max(times) for times in zip(*turn, strict=True)] for turn in zip(*ranks, strict=True)]


def _spread(turns: Sequence[Sequence[float]]) -> Record:
    """Over the passes of all turns, and the median of each turn."""
    values = [value for turn in turns for value in turn]
    medians = [statistics.median(turn) for turn in turns]
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "medians": medians}


def _gib(value: float) -> str:
    return f"{value / 2**30:.2f} GiB"
