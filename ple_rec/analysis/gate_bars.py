"""Expert utilisation as a figure, like the paper's Fig. 8: a panel for each gate, a bar for each of its experts."""

from __future__ import annotations

from matplotlib.ticker import FuncFormatter

from ple_rec.analysis.utilisation import Gate
from ple_rec.train.plain import cut
from ple_rec.train.report.svg import INK, PAGE, TRAIN, VALID, panel, render

OWN, SHARED = TRAIN, VALID  # blue and orange, which colour-blind eyes tell apart; in grey print the hatching does
_WIDTH, _BAR, _FRAME = 300, 19, 34  # pixels: of a panel, of a bar with its gap, of what lies below the bars
_NAME = 18  # characters of an expert's name
_MANY = 24  # experts above which bars are thin


def gate_bars(key: str, gate: Gate, limit: float) -> str:
    """Mean weight of every expert (bar) with its standard deviation over the samples (line), as SVG.

    Args:
        key: Id prefix, unique in the page.
        gate: To be drawn.
        limit: Right end of the axis, the same for all gates that stand together.
    """
    count = len(gate.experts)
    bar = _BAR if count <= _MANY else _BAR * _MANY / count
    with panel(round(_FRAME + bar * max(count, 2)), _WIDTH) as axes:
        for place, expert in enumerate(gate.experts):
            axes.barh(
                place,
                expert.mean,
                height=0.72,
                color=SHARED if expert.shared else OWN,
                edgecolor=PAGE,
                hatch="////" if expert.shared else None,
                linewidth=0,
            )
            low, high = max(0.0, expert.mean - expert.std), min(1.0, expert.mean + expert.std)
            axes.plot([low, high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
        axes.set_yticks(range(count), [cut(expert.name, _NAME) for expert in gate.experts])
        axes.set(xlim=(0, limit), ylim=(count - 0.4, -0.6))
        if count > _MANY:
            axes.tick_params(axis="y", labelsize=max(5.0, 11 * _MANY / count))
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        words = "; ".join(f"{e.name} {e.mean:.3f} \u00b1 {e.std:.3f}" for e in gate.experts)
        return render(axes, key, f"Level {gate.level}, gate of {gate.output}: {words}")
