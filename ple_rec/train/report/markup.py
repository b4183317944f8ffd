"""Pieces of HTML that every section of the report is made of, and lenient readers of what the run's files hold."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ple_rec.train.results import mapping, number

DASH = "&ndash;"


def text(value: object) -> str:
    """Any value as escaped HTML text, also safe inside a quoted attribute."""
    return html.escape(str(value))


def absent(sentence: str) -> str:
    """The paragraph that stands where a part of the run is not recorded."""
    return f'<p class="absent">{text(sentence)}</p>'


def pairs(items: Iterable[tuple[str, object]]) -> str:
    """Names and values as a description list."""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in items)
    return f'<dl class="pairs">{rows}</dl>'


def table(head: Sequence[str], body: Sequence[str], foot: str = "", *, plotted: bool = False) -> str:
    """A table from ready-made header cells, body rows and an optional footer row; it scrolls where it is too wide.

    Where `plotted`, rows have a column of small plots, and stand close so that these join up.
    """
    kind = ' class="plotted"' * plotted
    footer = f"<tfoot>{foot}</tfoot>" if foot else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody>{footer}</table></div>"
    )


def figure(caption: str, note: str, svg: str | None) -> str:
    """A chart under its caption and a lighter note; empty where there is no chart."""
    if svg is None:
        return ""
    small = f" <small>{text(note)}</small>" if note else ""
    return f"<figure><figcaption>{text(caption)}{small}</figcaption>{svg}</figure>"


def count(value: object) -> str:
    """A whole number with its thousands apart, a dash where there is none."""
    found = number(value)
    return DASH if found is None else f"{found:,.0f}"


def items(value: object) -> list[Any]:
    """The elements of a list; none where `value` is no list, as in a damaged file."""
    return list(value) if isinstance(value, list) else []


def entries(value: object) -> list[Mapping[str, Any]]:
    """The elements of a list as mappings, an odd one being empty; none where `value` is no list."""
    return [mapping(element) for element in items(value)]
