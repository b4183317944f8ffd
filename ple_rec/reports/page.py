"""HTML pages from templates: `render_page` fills a template, and `write_document` writes the page.

A page is one file that loads no other file. It has a section for each `Section` with a view.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ple_rec.errors import UserError
from ple_rec.storage import Location, short_message, write_bytes
from ple_rec.text.units import short_bytes, short_count

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


class Section(NamedTuple):
    """One section of a page.

    The template has a block for the section, and reads the view from a variable; both have the name `name`. A template
    writes `view.key` for an item of a dict, so no key of a view may be the name of a method of dict.

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
        """Name of the block and of the variable: the anchor with `_` instead of `-`."""
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


def render_page(template: str | Path, sections: Iterable[Section], **values: Any) -> str:
    """Return a page as HTML.

    Args:
        template: Name of a template in `templates/`, without its suffix, or the path of another template.
        sections: Sections in the order of the page.
        values: Further variables of the template.
    """
    shown_sections = [section for section in sections if section.view is not None]
    views = {section.name: section.view for section in shown_sections}
    if isinstance(template, Path):
        compiled = _environment().from_string(template.read_text(encoding="utf-8"))
    else:
        compiled = _environment().get_template(f"{template}.html.j2")
    return compiled.render(sections=shown_sections, **views, **values)


@cache
def _environment() -> Environment:
    # The import takes 40 ms, which only pages need.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from ple_rec.reports.drawing import STRIPS

    # `select_autoescape` does not recognise the suffix `.html.j2`, and would leave `<script>` in values unescaped.
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
    """Write a page or another text file, which appears under its name only when complete.

    Args:
        page: Content of the file.
        target: File to write.
        rule: Rule in the message of the error.
        fix: Fix in the message of the error.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        write_bytes(target, page.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(
            str(target), f"cannot be written ({error.strerror or short_message(error)})", rule, fix
        ) from error
