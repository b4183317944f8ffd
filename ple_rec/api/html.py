"""HTML of the API's objects in a notebook: small tables in the colours of its theme, and whole pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from ple_rec.storage import Location

# Colours are made of the notebook's own text colour, so that a table fits a light theme and a dark one.
_STYLE = """\
<style>
.ple-rec{font:13px/1.5 system-ui,sans-serif;max-width:100%;overflow-x:auto}
.ple-rec .line{margin:0 0 .5em}
.ple-rec .quiet{opacity:.7}
.ple-rec code{font-size:12px}
.ple-rec table{border-collapse:collapse;margin:.25em 0 .75em}
.ple-rec caption{text-align:left;font-weight:600;padding:.2em 0}
.ple-rec th,.ple-rec td{padding:.2em .75em;text-align:right;white-space:nowrap;background:none;border:0;
border-bottom:1px solid color-mix(in srgb,currentColor 18%,transparent);font-variant-numeric:tabular-nums}
.ple-rec th:first-child,.ple-rec td:first-child,.ple-rec .words{text-align:left}
.ple-rec th{font-weight:600}
</style>"""
# A page in a notebook has this height in CSS pixels.
_HEIGHT = 640


def block(*pieces: str) -> str:
    """Return pieces of HTML as one output of a notebook."""
    return f'{_STYLE}<div class="ple-rec">{"".join(pieces)}</div>'


def line(title: str, *notes: str) -> str:
    """Return a heading in bold, with notes behind it."""
    rest = "".join(f' <span class="quiet">&middot; {escape(note)}</span>' for note in notes if note)
    return f'<p class="line"><strong>{escape(title)}</strong>{rest}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Return a table of texts, whose columns of numbers are aligned to the right."""
    body = [list(row) for row in rows]
    words = [any(row[i][:1].isalpha() for row in body) for i in range(len(head))]

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = [' class="words"' if of_words else "" for of_words in words]
        pairs = zip(row, kinds, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(cell)}</{tag}>' for cell, kind in pairs)}</tr>"

    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    lines = "".join(cells("td", row) for row in body)
    return f"<table>{title}<thead>{cells('th', head)}</thead><tbody>{lines}</tbody></table>"


def shares_table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[float | None]]], caption: str) -> str:
    """Return a table of shares from 0 to 1, in which cells with greater shares have a stronger colour."""
    lines = []
    for name, shares in rows:
        cells = "".join(_share(share) for share in shares)
        lines.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    title = f"<caption>{escape(caption)}</caption>"
    return f"<table>{title}<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _share(share: float | None) -> str:
    if share is None:
        return "<td></td>"
    # Text stays readable on 60 % of the colour.
    percent = round(60 * min(max(share, 0.0), 1.0))
    return f'<td style="background:color-mix(in srgb,#3b82f6 {percent}%,transparent)">{share:.3f}</td>'


def progress_bar(done: int, total: int) -> str:
    """Return a progress bar of steps; if their number is not known yet, a bar that waits."""
    if not total:
        return block('<progress></progress> <span class="quiet">starting</span>')
    return block(f'<progress value="{done}" max="{total}"></progress> {done:,} of {total:,} steps')


def shown_path(path: Location) -> str:
    """Return a path relative to the working directory if it lies below that, else as it is."""
    try:
        return str(path.relative_to(Path.cwd()) if isinstance(path, Path) else path)
    # The path lies elsewhere, or the working directory is gone.
    except (ValueError, OSError):
        return str(path)


class Page:
    """Page of HTML in a file, which a notebook shows in a frame.

    Attributes:
        path: File of the page.
    """

    path: Location

    def __init__(self, path: Location) -> None:
        self.path = path.absolute()

    def __fspath__(self) -> str:
        """Return the path of the file."""
        return str(self.path)

    def __repr__(self) -> str:
        """Return the class and the path."""
        return f"Page({shown_path(self.path)!r})"

    def _repr_html_(self) -> str:
        # Pages have no scripts, so the frame allows none. The base lets links point into the page, not the notebook.
        page = self.path.read_text(encoding="utf-8").replace("<head>", '<head><base href="about:srcdoc">', 1)
        content = escape(page)
        frame = f'<iframe sandbox="allow-same-origin" srcdoc="{content}" title="{escape(self.path.name)}"'
        return f'{frame} style="width:100%;height:{_HEIGHT}px;border:0"></iframe>'
