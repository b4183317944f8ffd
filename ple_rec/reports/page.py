"""A page from its template: one HTML file that loads nothing, with a section for each part that there is."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ple_rec.errors import UserError
from ple_rec.storage import Location, short, write_bytes
from ple_rec.text.units import short_bytes, short_count

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


class Part(NamedTuple):
    """One section of a page.

    The template has a block for it, named as the anchor with `_` for `-`; the view is the variable of that name. Where
    it is a dict, a template reads `view.key`: no key may be the name of a method of dict.

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
    """A number that stands large above the sections, with a note below it."""

    label: str
    value: str
    note: str = ""


class Panel(NamedTuple):
    """A chart under its caption and a lighter note."""

    caption: str
    note: str
    svg: Markup


def render(template: str, parts: Iterable[Part], **values: Any) -> str:
    """Return a whole page.

    Args:
        template: Name of the template, without its suffix.
        parts: Sections in order.
        values: Further variables of the template.
    """
    shown = [part for part in parts if part.view is not None]
    views = {part.name: part.view for part in shown}
    return _environment().get_template(f"{template}.html.j2").render(sections=shown, **views, **values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # 40 ms that only a page has to pay

    # `select_autoescape` would not know `*.html.j2`, and pass `<script>`.
    environment = Environment(
        loader=PackageLoader("ple_rec.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
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
