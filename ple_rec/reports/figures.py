"""A figure that stands on a page and in files of its own (SVG, PNG).

It is a function that draws on axes in colours that it asks a palette for: the placeholders of the page, or those of
paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ple_rec.reports.lines import Draw
from ple_rec.reports.page import Panel
from ple_rec.reports.svg import LIGHT, PAGE, panel, render

_DOTS = 144  # dots per inch of a PNG


@dataclass(frozen=True)
class Chart:
    """A figure.

    Args:
        key: Name of its files, and prefix of its ids.
        caption: Line above it.
        note: Lighter words beside the caption.
        draw: Function that draws it.
        size: Width and height in CSS pixels.
    """

    key: str
    caption: str
    note: str
    draw: Draw
    size: tuple[int, int]

    def panel(self) -> Panel:
        """Return the figure for a page."""
        width, height = self.size
        with panel(height, width) as axes:
            self.draw(axes, lambda colour: colour)
            return Panel(self.caption, self.note, render(axes, self.key, self.caption))

    def save(self, folder: Path) -> None:
        """Write `<key>.svg` and `<key>.png`, on white."""
        width, height = self.size
        with panel(height, width, LIGHT) as axes:
            figure = axes.figure
            assert isinstance(figure, Figure)
            figure.suptitle(self.caption, fontsize=11, x=0.01, ha="left")  # above all that stands over the axes
            self.draw(axes, lambda colour: LIGHT.get(colour, colour))
            save_figure(figure, folder, self.key)


def save_figure(figure: Figure, folder: Path, key: str) -> None:
    """Write `<key>.svg` and `<key>.png`, on white; equal figures give equal bytes."""
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(folder / f"{key}.svg", facecolor=LIGHT[PAGE], metadata=nothing)
    figure.savefig(folder / f"{key}.png", facecolor=LIGHT[PAGE], dpi=_DOTS, metadata={"Software": None})
