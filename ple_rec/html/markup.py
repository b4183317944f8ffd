"""Pieces of HTML that every section of a page is made of."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

DASH = "&ndash;"


def text(value: object) -> str:
    """Any value as escaped HTML text, also safe inside a quoted attribute."""
    return html.escape(str(value))


def absent(sentence: str) -> str:
    """The paragraph that stands where something is not recorded."""
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
