"""Matplotlib figures as inline SVG in the colours and fonts of a page, and as files of their own (SVG, PNG).

A figure is drawn in placeholder colours, each of which becomes a CSS variable in the SVG text. One SVG therefore serves
light, dark and print. Text stays text instead of outlines, so it can be selected and has the page's font.

A chart is drawn by a function that takes axes and a function `paint`, through which it passes all colours. For a page,
`paint` keeps the placeholders; for a file of its own, it replaces them by the colours of `LIGHT`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ple_rec.reports.page import Panel

# Function from a placeholder colour to the colour that is drawn.
Paint = Callable[[str], str]
# Function that draws a chart on axes, in colours that it passes through the second argument.
Draw = Callable[[Axes, Paint], None]

# Placeholder colours: text, secondary text, lines of axes and grids, background; then four colours of data.
INK, MUTED, RULE, PAGE = "#010203", "#020304", "#030405", "#040506"
TRAIN, VALID, TEST, BEST = "#050607", "#060708", "#070809", "#08090a"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAGE: "var(--page)",
    TRAIN: "var(--train)",
    VALID: "var(--valid)",
    TEST: "var(--test)",
    BEST: "var(--best)",
}
# Colours of a figure in a file of its own, which are those of the page in light.
LIGHT = {
    INK: "#1a1e23",
    MUTED: "#58626c",
    RULE: "#dfe3e8",
    PAGE: "#ffffff",
    TRAIN: "#0072b2",
    VALID: "#d55e00",
    TEST: "#00805c",
    BEST: "#8a3d78",
}
# Size of a panel in CSS pixels; the width is that of one column of the page.
_WIDTH, _HEIGHT = 340, 208
_STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ple_rec",
    # This font comes with matplotlib, so the layout is the same on every machine.
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.color": RULE,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def themed_figure(height: int, width: int, colours: Mapping[str, str] | None = None) -> Iterator[Figure]:
    """Yield an empty figure, which is drawn and saved inside the block.

    Args:
        height: Height in CSS pixels.
        width: Width in CSS pixels.
        colours: Colours for the placeholders, such as `LIGHT`; None for a figure that `render_svg` turns into SVG.
    """
    palette = {} if colours is None else dict(colours)
    with mpl.rc_context():
        # A user's matplotlibrc must not change a report.
        mpl.rcdefaults()
        mpl.rcParams.update({key: palette.get(str(value), value) for key, value in _STYLE.items()})
        # The SVG of matplotlib has 72 units an inch, so that a unit is a CSS pixel.
        yield Figure(figsize=(width / 72, height / 72), layout="constrained")


@contextmanager
def panel_axes(height: int = _HEIGHT, width: int = _WIDTH, colours: Mapping[str, str] | None = None) -> Iterator[Axes]:
    """Yield the axes of a figure with one panel; the arguments are those of `themed_figure`."""
    with themed_figure(height, width, colours) as figure:
        yield figure.add_subplot()


def render_svg(axes: Axes, key: str, title: str) -> Markup:
    """Return the figure of `axes` as an `<svg>` element.

    Args:
        axes: Axes from `panel_axes`.
        key: Prefix of every id in the SVG; unique in the page, of letters, digits and dashes.
        title: Text for screen readers and the tooltip.
    """
    figure = axes.figure
    assert isinstance(figure, Figure), "axes come from `panel_axes`"
    width, height = figure.get_size_inches() * 72
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    content = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    content = re.sub(r"<metadata>.*?</metadata>", "", content, flags=re.DOTALL)
    content = re.sub(r"<!--.*?-->", "", content, flags=re.DOTALL)
    # A style element would apply to the whole page.
    content = re.sub(r"<style.*?</style>", "", content, flags=re.DOTALL)
    content = re.sub(r"<[^>]+>", lambda tag: re.sub(r"-?\d+\.\d{3,}", _hundredth, tag.group()), content)
    content = re.sub(r'\bid="', f'id="{key}-', content)
    content = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\1{key}-", content).replace("xlink:href", "href")
    content = re.sub(r"\s*font(?:-family)?: ?[^;\"]*'DejaVu Sans'[^;\"]*;?", _font, content)
    content = re.sub(r"#[0-9a-f]{6}\b", lambda match: _VARIABLES.get(match.group(), match.group()), content)
    content = re.sub(r"\n\s*", "\n", content).strip()
    name = escape(title)
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{name}">\n<title>{name}</title>\n{content}\n</svg>'
    )


def _hundredth(match: re.Match[str]) -> str:
    """Return a number in a tag, rounded to two decimals."""
    return f"{float(match.group()):.2f}"


def _font(match: re.Match[str]) -> str:
    """Return the size of a `font:` shorthand without the family, so that the text has the page's font."""
    size = re.search(r"([0-9.]+)px", match.group())
    return f" font-size: {size.group(1)}px;" if size else ""


# Resolution of PNG files: two dots for each CSS pixel.
_DOTS_PER_INCH = 144


@dataclass(frozen=True)
class Chart:
    """A figure of one panel, for a page and for files.

    Args:
        key: Name of its files, and prefix of the ids in its SVG.
        caption: Line above it.
        note: Lighter text beside the caption.
        draw: Function that draws it.
        size: Width and height in CSS pixels.
    """

    key: str
    caption: str
    note: str
    draw: Draw
    size: tuple[int, int]

    def to_panel(self) -> Panel:
        """Draw the figure for a page."""
        width, height = self.size
        with panel_axes(height, width) as axes:
            self.draw(axes, lambda colour: colour)
            return Panel(self.caption, self.note, render_svg(axes, self.key, self.caption))

    def save(self, folder: Path) -> None:
        """Write `<key>.svg` and `<key>.png`, on white."""
        width, height = self.size
        with panel_axes(height, width, LIGHT) as axes:
            figure = axes.figure
            # `panel_axes` adds its axes to a figure, not to a subfigure.
            assert isinstance(figure, Figure)
            # A title of the axes would overlap text that the chart writes above them.
            figure.suptitle(self.caption, fontsize=11, x=0.01, ha="left")
            self.draw(axes, lambda colour: LIGHT.get(colour, colour))
            save_figure(figure, folder, self.key)


def save_figure(figure: Figure, folder: Path, key: str) -> None:
    """Write `<key>.svg` and `<key>.png`, on white; equal figures give equal bytes."""
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(folder / f"{key}.svg", facecolor=LIGHT[PAGE], metadata=no_metadata)
    figure.savefig(folder / f"{key}.png", facecolor=LIGHT[PAGE], dpi=_DOTS_PER_INCH, metadata={"Software": None})
