"""Pages from templates: each is one HTML file that loads no other, with a section for each part that has a view."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ple_rec.errors import UserError
from ple_rec.storage import Location, short, write_bytes
from ple_rec.text.units import short_bytes, short_count

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


class Part(NamedTuple):
    """One section of a page.

    The template has a block for it, whose name is the anchor with `_` for `-`; the view is the variable of that name. A
    template reads `view.key` if the view is a dict, so no key may be the name of a method of dict.

    Args:
        anchor: Id of the section in the page.
        heading: Heading of the section, and text of the link to it.
        view: Values that the block shows; None leaves the section out.
    """

    anchor: str
    heading: str
    view: object

    @property
    def name(self) -> str:
        """Name of the block and of its variable."""
        return self.anchor.replace("-", "_")


class Fact(NamedTuple):
    """A name and a value in the head of a page."""

    name: str
    value: object


class KeyFigure(NamedTuple):
    """A number in large type above the sections, with a note below it."""

    label: str
    value: str
    note: str = ""


class Panel(NamedTuple):
    """A chart under its caption and a lighter note."""

    caption: str
    note: str
    svg: Markup


def render(template: str | Path, parts: Iterable[Part], **values: Any) -> str:
    """Return a whole page.

    Args:
        template: Name of a template of this package, without its suffix, or the file of another one.
        parts: Sections in order.
        values: Further variables of the template.
    """
    shown = [part for part in parts if part.view is not None]
    views = {part.name: part.view for part in shown}
    if isinstance(template, Path):
        compiled = _environment().from_string(template.read_text(encoding="utf-8"))
    else:
        compiled = _environment().get_template(f"{template}.html.j2")
    return compiled.render(sections=shown, **views, **values)


@cache
def _environment() -> Environment:
    # The import takes 40 ms, which only pages need.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from ple_rec.reports.drawing import STRIPS

    # `select_autoescape` would not recognise `*.html.j2`, and leave `<script>` unescaped.
    environment = Environment(
        loader=PackageLoader("ple_rec.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {draw.__name__: draw for draw in STRIPS}
    environment.filters |= {"bytes": short_bytes, "short": short_count, "thousands": "{:,}".format}
    return environment


def write_document(page: str, target: Location, rule: str, fix: str) -> None:
    """Write a page; it appears under its name only when complete. Equal pages give equal bytes.

    Args:
        page: The whole page.
        target: File to write.
        rule: Rule of the error.
        fix: Fix of the error.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        write_bytes(target, page.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(str(target), f"cannot be written ({error.strerror or short(error)})", rule, fix) from error
