"""Every table with its shards: where it lies, what it takes, how long it takes."""

from __future__ import annotations

from ple_rec.config.plan import Plan, TablePlan
from ple_rec.config.plan_memory import Memory
from ple_rec.html.markup import absent, table, text
from ple_rec.planning.page.placement import by_size, ranks_of
from ple_rec.planning.page.words import short_ms
from ple_rec.text.units import joined_spans, short_bytes

_MANY = 60  # more than this are folded away
_KINDS = ("weights", "optimizer", "cache", "batch")


def tables(plan: Plan) -> str:
    """The tables, the largest first, with a total; bytes are of all shards together."""
    if not plan.tables:
        return absent("The model has no embedding tables.")
    entries = [(entry, plan.of_table(entry)) for entry in by_size(plan)]
    kinds = [kind for kind in _KINDS if kind != "cache" or any(held.hbm_cache for _, held in entries)]
    left, right = '<th class="text" scope="col">', '<th scope="col">'
    head = [f"{left}table</th>{right}rows</th>{right}dim</th>{left}dtype</th>"]
    head += [f"{right}{'optimizer state' if kind == 'optimizer' else kind}</th>" for kind in kinds]
    head.append(f"{left}sharding</th>{left}kernel</th>{left}ranks</th>{right}ms</th>")
    body = [_row(entry, held, kinds) for entry, held in entries]
    total = Memory()
    for _, held in entries:
        total = total.plus(held)
    name = "1 table" if len(entries) == 1 else f"{len(entries)} tables"
    foot = (
        f'<tr><th class="text" scope="row">{name}</th><td>{sum(entry.rows for entry, _ in entries):,}</td>'
        f"<td></td><td></td>{_bytes(total, kinds)}<td></td><td></td><td></td><td></td></tr>"
    )
    words = "Bytes are of all shards together, milliseconds of the costliest shard."
    content = f'<p class="absent">{words}</p><div class="tight">{table(head, body, foot)}</div>'
    if len(entries) <= _MANY:
        return content
    return f"<details><summary>{name}, {short_bytes(total.weights)} of weights</summary>{content}</details>"


def _row(entry: TablePlan, held: Memory, kinds: list[str]) -> str:
    load = f" <small>cache {entry.cache_load_factor:g}</small>" if entry.cache_load_factor else ""
    return (
        f'<tr><th class="text" scope="row">{text(entry.table)}</th><td>{entry.rows:,}</td><td>{entry.dim}</td>'
        f'<td class="text">{entry.dtype}</td>{_bytes(held, kinds)}<td class="text">{entry.sharding}</td>'
        f'<td class="text">{entry.kernel}{load}</td><td class="text wrap">{joined_spans(ranks_of(entry))}</td>'
        f"<td>{text(short_ms(entry.costs_ms.total()).removesuffix(' ms'))}</td></tr>"
    )


def _bytes(held: Memory, kinds: list[str]) -> str:
    return "".join(
        f"<td>{short_bytes(held.hbm_cache if kind == 'cache' else getattr(held, kind))}</td>" for kind in kinds
    )
