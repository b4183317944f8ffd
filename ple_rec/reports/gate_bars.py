"""Expert utilisation as a figure, like the paper's Fig. 8: a panel for each gate, a bar for each of its experts."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ple_rec.analysis.result import Gate
from ple_rec.reports.svg import INK, PAGE, TRAIN, VALID, panel, render
from ple_rec.text import cut

# Colour-blind readers can distinguish blue and orange; in grey print, shared experts are hatched.
OWN, SHARED = TRAIN, VALID
# Lengths are CSS pixels. A bar has its gap; the frame is the part below the bars.
WIDTH = 300
_BAR, _FRAME = 19, 34
_NAME_LETTERS = 18
# Bars of more experts are thinner.
_MANY = 24


def bars_height(count: int) -> int:
    """Return the height of a panel with a number of experts, in CSS pixels."""
    bar = _BAR if count <= _MANY else _BAR * _MANY / count
    return round(_FRAME + bar * max(count, 2))


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
    axes.set_yticks(range(count), [cut(expert.name, _NAME_LETTERS) for expert in gate.experts])
    axes.set(xlim=(0, limit), ylim=(count - 0.4, -0.6))
    if count > _MANY:
        axes.tick_params(axis="y", labelsize=max(5.0, 11 * _MANY / count))
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def gate_bars(key: str, gate: Gate, limit: float) -> Markup:
    """Return `draw_gate` as SVG of a page.

    Args:
        key: Id prefix, unique in the page.
        gate: Gate to draw.
        limit: Right end of the axis.
    """
    with panel(bars_height(len(gate.experts)), WIDTH) as axes:
        draw_gate(axes, gate, limit, lambda colour: colour)
        words = "; ".join(f"{e.name} {e.mean:.3f} \u00b1 {e.std:.3f}" for e in gate.experts)
        return render(axes, key, f"Level {gate.level}, gate of {gate.output}: {words}")
