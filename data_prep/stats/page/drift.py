"""The section on how far valid and test are from the train split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.stats.drift import LARGE, MODERATE, verdict
from data_prep.stats.page.view import View, percent
from ple_rec.html.markup import DASH, absent, table, text
from ple_rec.html.strips import Scale, axis_strip, dot_strip

_LISTED = 15  # columns before the fold


def drift(view: View) -> str:
    """Columns by their population stability index, the largest first."""
    found: Mapping[str, Mapping[str, Any]] = view.stats["drift"]
    groups: Mapping[str, Any] | None = view.stats.get("groups")
    known = sorted((name for name in found if found[name]["psi"] is not None), key=lambda name: -found[name]["psi"])
    left_out = _left_out(groups)
    if not known:
        return left_out or absent("Not known: train has no rows, or valid and test have none.")
    lead = (
        "<p>Valid and test together, beside train. PSI, the population stability index: over the tenths of train for "
        "dense columns, over the 64 most frequent rows of train and the rest for sparse ones. By custom, below "
        f"{MODERATE} a column is stable, from {LARGE} its drift is large, unless chance alone gives half as much. By "
        f"chance: {_by_chance(groups)}. KS: the greatest distance of the two distribution functions. Unknown: look-ups "
        "of row 0 in valid and test.</p>"
    )
    most = max(1.0, *(found[name]["psi"] for name in known))
    scale = Scale(0.001, 1.2 * most, logarithmic=True)
    marks = [(0.001, "0.001"), (0.01, "0.01"), (MODERATE, f"{MODERATE}"), (1.0, "1")]
    axis = axis_strip(scale, marks if most < 5 else [*marks, (10.0, "10")])
    head = [
        f'<th class="text" scope="col">column</th><th class="plot" scope="col">{axis}</th><th scope="col">PSI</th>',
        '<th scope="col">by chance</th><th class="text" scope="col">drift</th><th scope="col">KS</th>',
        '<th scope="col">unknown later</th>',
    ]
    body = [_row(name, found[name], scale) for name in known]
    content = table(head, body[:_LISTED], plotted=True)
    if len(body) > _LISTED:
        rest = table(head, body[_LISTED:], plotted=True)
        content += f"<details><summary>{len(body) - _LISTED} columns of less drift</summary>{rest}</details>"
    return lead + left_out + content


def _left_out(groups: Mapping[str, Any] | None) -> str:
    """A paragraph on the columns that tell the group; nothing where there are none."""
    if groups is None or not groups["columns"]:
        return ""
    names = ", ".join(f"<code>{text(name)}</code>" for name in groups["columns"])
    rule = f"The split deals out each value of <code>{text(groups['by'])}</code> whole, so none of train is in valid"
    return f"<p>Left out: {names}. {rule} or test.</p>"


def _by_chance(groups: Mapping[str, Any] | None) -> str:
    """Words for what `chance` is."""
    if groups is None:
        return "what rows drawn from one population would give on average"
    return (
        f"an upper bound, what it would be on average if all rows of a <code>{text(groups['by'])}</code> were alike, "
        f"for the split deals them out whole: as many as {groups['train']:,.0f} of equal size to train, "
        f"{groups['later']:,.0f} to valid and test"
    )


def _row(name: str, found: Mapping[str, Any], scale: Scale) -> str:
    psi, chance = found["psi"], found["chance"]
    word = verdict(psi, chance)
    strip = dot_strip(scale, max(psi, scale.low), 0.1, f"PSI {psi:.4f}", faint=word == "stable")
    ks = DASH if found.get("ks") is None else f"{found['ks']:.3f}"
    unknown = percent(found["oov"]) if "oov" in found else ""
    return (
        f'<tr><th class="text" scope="row">{text(name)}</th><td class="plot">{strip}</td><td>{psi:.4f}</td>'
        f'<td>{chance:.4f}</td><td class="text {word}">{word}</td><td>{ks if "ks" in found else ""}</td>'
        f"<td>{unknown}</td></tr>"
    )
