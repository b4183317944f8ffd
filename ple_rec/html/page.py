"""The frame of a page: one HTML file that loads nothing, with a section for each part that there is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from ple_rec.errors import UserError
from ple_rec.html.markup import text

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Part(NamedTuple):
    """A section: its anchor, its heading, and its content as HTML (empty: it is left out)."""

    anchor: str
    heading: str
    content: str


def document(title: str, header: str, lead: str, parts: Sequence[Part], footer: str, *, style: str = "") -> str:
    """A whole page.

    Args:
        title: Of the window; any text.
        header: HTML above the links to the sections.
        lead: HTML below them.
        parts: The sections, in order.
        footer: The last line; any text.
        style: CSS that the page needs beside the style sheet of all pages.
    """
    sheet = resources.files("ple_rec.reports").joinpath("templates/page.css").read_text(encoding="utf-8") + style
    shown = [part for part in parts if part.content]
    links = "".join(f'<a href="#{part.anchor}">{text(part.heading)}</a>' for part in shown)
    body = "".join(
        f'<section id="{part.anchor}"><h2>{text(part.heading)}</h2>{part.content}</section>\n' for part in shown
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>\n{sheet}</style>\n</head>\n<body>\n"
        f"{header}<nav>{links}</nav>\n{lead}\n<main>\n{body}</main>\n"
        f"<footer>{text(footer)}</footer>\n</body>\n</html>\n"
    )


def write_document(page: str, target: Path, rule: str, fix: str) -> None:
    """Write a page; it appears under its name only when complete. Equal pages give equal bytes.

    Raises:
        UserError: It cannot be written; `rule` and `fix` are the error's.
    """
    draft = target.with_name(f"{target.name}.partial")
    try:
        draft.write_text(page, encoding="utf-8", errors="replace", newline="\n")
        draft.replace(target)
    except OSError as error:
        with suppress(OSError):  # as of a file system that is only read
            draft.unlink(missing_ok=True)
        raise UserError(str(target), f"cannot be written ({error.strerror})", rule, fix) from error
