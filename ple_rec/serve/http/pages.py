"""Pages: files of the package, held in memory, and the description of the interface as plain HTML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

from starlette.responses import Response

from ple_rec.html.markup import pairs, table, text
from ple_rec.html.page import Part, document

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
_HOUSE = "house.css"  # the style that all pages of the project have
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent."""

    content: bytes
    kind: str
    tag: str

    def response(self, known: str | None) -> Response:
        """The file, or that the browser has it."""
        headers = _headers(_POLICY) | {"ETag": self.tag, "Cache-Control": "no-cache"}
        if known == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers | {"Content-Type": self.kind})


def page_files() -> dict[str, PageFile]:
    """Of `ple_rec/serve/page`, by name. What a client asks for is looked up here and is never a path."""
    folder = resources.files("ple_rec.serve").joinpath("page")
    files = {file.name: file for file in folder.iterdir()}
    files[_HOUSE] = resources.files("ple_rec.html").joinpath("page.css")
    found = {}
    for name, file in files.items():
        kind = _TYPES.get(PurePosixPath(name).suffix)
        if kind is not None:
            content = file.read_bytes()
            found[name] = PageFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


def documentation(openapi: Mapping[str, Any]) -> Response:
    """The page of /docs: it loads nothing, as the usual ones do from elsewhere."""
    schemas: Mapping[str, Any] = openapi["components"]["schemas"]
    parts = []
    for path, methods in openapi["paths"].items():
        for method, of in methods.items():
            anchor = f"{method}-{path.strip('/').replace('/', '-').replace('{', '').replace('}', '')}"
            parts.append(Part(anchor, f"{method.upper()} {path}", _operation(of)))
    for name, schema in schemas.items():
        parts.append(Part(f"schema-{name}", name, _block(schema)))
    info = openapi["info"]
    head = f"<header><h1>{text(info['title'])}</h1></header>"
    lead = f"<p>{text(info['description'])}</p>"
    page = document(info["title"], head, lead, parts, f"OpenAPI {openapi['openapi']}: /openapi.json")
    return Response(page, headers=_headers(_DOCS_POLICY) | {"Content-Type": _TYPES[".html"]})


def _operation(of: Mapping[str, Any]) -> str:
    pieces = [f"<p>{text(of.get('description', of.get('summary', '')))}</p>"]
    if "requestBody" in of:
        (schema,) = (content["schema"] for content in of["requestBody"]["content"].values())
        pieces.append(pairs([("body", _named(schema))]))
    rows = []
    for status, answer in of["responses"].items():
        schemas = [content.get("schema", {}) for content in answer.get("content", {}).values()]
        body = ", ".join(_named(schema) for schema in schemas)
        cells = [f'<td class="text">{text(cell)}</td>' for cell in (status, answer["description"], body)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return "".join(pieces) + table([f'<th class="text">{name}</th>' for name in ("status", "when", "body")], rows)


def _named(schema: Mapping[str, Any]) -> str:
    reference: str = schema.get("$ref", "")
    return reference.rpartition("/")[2] or str(schema.get("type", ""))


def _block(schema: Mapping[str, Any]) -> str:
    return f"<pre>{text(json.dumps(schema, indent=1, ensure_ascii=False))}</pre>"


def _headers(policy: str) -> dict[str, str]:
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
