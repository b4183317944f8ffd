"""Files of the server's page, which are read once and answered from memory with their ETag and security headers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath

from starlette.responses import Response

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Name under which the style sheet of the project's reports is served.
_HOUSE_CSS = "house.css"
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
    content_type: str
    etag: str

    def response(self, if_none_match: str | None) -> Response:
        """Return the file, or status 304 if the browser has a file with this ETag in its cache.

        Args:
            if_none_match: Header If-None-Match of the request; None if it has none.
        """
        headers = _HEADERS | {"ETag": self.etag, "Cache-Control": "no-cache"}
        if if_none_match == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers | {"Content-Type": self.content_type})


def page_files() -> dict[str, PageFile]:
    """Return the files of the page by name.

    The server looks up a requested name in this mapping, so a request cannot open a path.
    """
    folder = resources.files("ple_rec.serving").joinpath("page")
    files = {file.name: file for file in folder.iterdir()}
    files[_HOUSE_CSS] = resources.files("ple_rec.reports").joinpath("templates", "page.css")
    pages = {}
    for name, file in files.items():
        content_type = _TYPES.get(PurePosixPath(name).suffix)
        if content_type is not None:
            content = file.read_bytes()
            pages[name] = PageFile(content, content_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return pages
