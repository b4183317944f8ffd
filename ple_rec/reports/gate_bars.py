"""Expert utilisation as in Fig. 8 of the PLE paper: a panel for each gate, with a bar for each of its experts."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ple_rec.analysis.result import Gate
from ple_rec.reports.svg import INK, PAGE, TRAIN, VALID, panel_axes, render_svg
from ple_rec.text import cut_middle

# Colour-blind readers can distinguish blue and orange; in grey print, shared experts are hatched.
OWN, SHARED = TRAIN, VALID
# Lengths are CSS pixels: width of a panel, height of a bar with its gap, and height below the bars.
WIDTH = 300
_BAR_HEIGHT, _FRAME_HEIGHT = 19, 34
# Largest number of characters in the name of an expert.
_MAX_NAME_LENGTH = 18
# With more experts, bars and their labels are smaller.
_MANY_EXPERTS = 24


def bars_height(count: int) -> int:
    """Return the height of a panel, in CSS pixels, for `count` experts."""
    bar = _BAR_HEIGHT if count <= _MANY_EXPERTS else _BAR_HEIGHT * _MANY_EXPERTS / count
    return round(_FRAME_HEIGHT + bar * max(count, 2))


def draw_gate(axes: Axes, gate: Gate, limit: float, paint: Callable[[str], str]) -> None:
    """Draw the mean weight of every expert (bar) with its standard deviation over the samples (line).

    Args:
        axes: Axes to draw on.
        gate: Gate to draw.
        limit: Right end of the axis, the same for all gates of a figure.
        paint: Function from a placeholder to a colour.
    """
    count = len(gate.experts)
    for place, expert in enumerate(gate.experts):
        axes.barh(
            place,
            expert.mean,
            height=0.72,
            color=paint(SHARED if expert.shared else OWN),
            edgecolor=paint(PAGE),
            hatch="////" if expert.shared else None,
            linewidth=0,
        )
        low, high = max(0.0, expert.mean - expert.std), min(1.0, expert.mean + expert.std)
        axes.plot([low, high], [place, place], color=paint(INK), linewidth=1.4, solid_capstyle="butt")
    axes.set_yticks(range(count), [cut_middle(expert.name, _MAX_NAME_LENGTH) for expert in gate.experts])
    axes.set(xlim=(0, limit), ylim=(count - 0.4, -0.6))
    if count > _MANY_EXPERTS:
        axes.tick_params(axis="y", labelsize=max(5.0, 11 * _MANY_EXPERTS / count))
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def gate_bars(key: str, gate: Gate, limit: float) -> Markup:
    """Return `draw_gate` as SVG of a page.

    Args:
        key: Id prefix, unique in the page.
        gate: Gate to draw.
        limit: Right end of the axis.
    """
    with panel_axes(bars_height(len(gate.experts)), WIDTH) as axes:
        draw_gate(axes, gate, limit, lambda colour: colour)
        words = "; ".join(f"{e.name} {e.mean:.3f} \u00b1 {e.std:.3f}" for e in gate.experts)
        return render_svg(axes, key, f"Level {gate.level}, gate of {gate.output}: {words}")
