"""Files of the page, in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath

from starlette.responses import Response

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Style sheet of all pages of the project.
_HOUSE = "house.css"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """File of the page.

    Args:
        content: Bytes of the file.
        kind: Content-Type of the file.
        tag: ETag of the content.
    """

    content: bytes
    kind: str
    tag: str

    def response(self, if_none_match: str | None) -> Response:
        """Return the file, or status 304 if the browser has it in its cache.

        Args:
            if_none_match: Header If-None-Match of the request; None if it has none.
        """
        headers = _HEADERS | {"ETag": self.tag, "Cache-Control": "no-cache"}
        if if_none_match == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers | {"Content-Type": self.kind})


def page_files() -> dict[str, PageFile]:
    """Return the files of the page by name; names from clients are looked up here, and never used as paths."""
    folder = resources.files("ple_rec.serving").joinpath("page")
    files = {file.name: file for file in folder.iterdir()}
    files[_HOUSE] = resources.files("ple_rec.reports").joinpath("templates", "page.css")
    pages = {}
    for name, file in files.items():
        kind = _TYPES.get(PurePosixPath(name).suffix)
        if kind is not None:
            content = file.read_bytes()
            pages[name] = PageFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return pages
