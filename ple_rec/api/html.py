"""HTML with which a notebook shows the objects of the Python API: small tables, and pages of reports in a frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from ple_rec.storage import Location

# Borders take their colour from the text of the notebook, so that a table fits light and dark themes.
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
# Height of the frame for a page, in CSS pixels.
_HEIGHT = 640


def block(*pieces: str) -> str:
    """Return results of `line`, `table` and `shares_table`, with the style that they need, as output of a notebook."""
    return f'{_STYLE}<div class="ple-rec">{"".join(pieces)}</div>'


def line(title: str, *notes: str) -> str:
    """Return a line with a title in bold and the notes after it; empty notes are left out."""
    rest = "".join(f' <span class="quiet">&middot; {escape(note)}</span>' for note in notes if note)
    return f'<p class="line"><strong>{escape(title)}</strong>{rest}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Return a table of texts.

    The first column, and those in which a cell begins with a letter, are aligned to the left, the others to the right.
    """
    body = [list(row) for row in rows]
    left_aligned = [any(row[i][:1].isalpha() for row in body) for i in range(len(head))]

    def cells(tag: str, row: Sequence[str]) -> str:
        classes = [' class="words"' if is_left else "" for is_left in left_aligned]
        pairs = zip(row, classes, strict=True)
        return f"<tr>{''.join(f'<{tag}{css_class}>{escape(cell)}</{tag}>' for cell, css_class in pairs)}</tr>"

    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    lines = "".join(cells("td", row) for row in body)
    return f"<table>{title}<thead>{cells('th', head)}</thead><tbody>{lines}</tbody></table>"


def shares_table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[float | None]]], caption: str) -> str:
    """Return a table of shares from 0 to 1, in which cells with greater shares have a stronger colour.

    Args:
        head: Headings of the columns; the first is that of the names.
        rows: Name and shares of each row; a share of None leaves its cell empty.
        caption: Title of the table.
    """
    lines = []
    for name, shares in rows:
        cells = "".join(_share_cell(share) for share in shares)
        lines.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    title = f"<caption>{escape(caption)}</caption>"
    return f"<table>{title}<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _share_cell(share: float | None) -> str:
    if share is None:
        return "<td></td>"
    # The colour is at most 60 % opaque, so that the text on it stays readable.
    percent = round(60 * min(max(share, 0.0), 1.0))
    return f'<td style="background:color-mix(in srgb,#3b82f6 {percent}%,transparent)">{share:.3f}</td>'


def progress_bar(done: int, total: int) -> str:
    """Return a progress bar of steps as a whole output; without a position if `total` is 0, that is, not known yet."""
    if not total:
        return block('<progress></progress> <span class="quiet">starting</span>')
    return block(f'<progress value="{done}" max="{total}"></progress> {done:,} of {total:,} steps')


def display_path(path: Location) -> str:
    """Return a path as text, relative to the working directory if it lies below that."""
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
        return f"Page({display_path(self.path)!r})"

    def _repr_html_(self) -> str:
        # Pages have no scripts, so the sandbox allows none. With this base, a link to an anchor stays within the page.
        page = self.path.read_text(encoding="utf-8").replace("<head>", '<head><base href="about:srcdoc">', 1)
        content = escape(page)
        frame = f'<iframe sandbox="allow-same-origin" srcdoc="{content}" title="{escape(self.path.name)}"'
        return f'{frame} style="width:100%;height:{_HEIGHT}px;border:0"></iframe>'
