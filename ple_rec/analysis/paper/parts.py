"""Tables and figures of the paper as comparisons: on what, of whom, how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

CORRELATIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
CENSUS, KUAIRAND = Path("data/census"), Path("data/kuairand-six-days")


@dataclass(frozen=True)
class Comparison:
    """One comparison of a part.

    Args:
        name: Its directory.
        recipe: Of `ple-rec compare`.
        data: Dataset directory.
        prepare: Arguments of `ple-rec prep` that make it; empty: the user has to.
        seeds: Of each variant.
        variants: Of the recipe; empty: all.
        match: What is equal; empty: as the recipe says.
        overrides: Of every run.
    """

    name: str
    recipe: str
    data: Path
    prepare: tuple[str, ...]
    seeds: int
    variants: tuple[str, ...] = ()
    match: str = ""
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A table or figure of the paper.

    Args:
        name: On the command line.
        title: What it reproduces.
        comparisons: In their order.
        correlations: Of each comparison, where it is a point of Fig. 7.
    """

    name: str
    title: str
    comparisons: tuple[Comparison, ...]
    correlations: tuple[float, ...] = field(default=())


def all_parts() -> list[Part]:
    """Everything, as `make paper` makes it."""
    return [
        Part(
            "table5",
            "Table 5: Census-Income, ten models",
            (_census("table5-as-published", 10, match="none"), _census("table5-equal-flops", 10, match="flops")),
        ),
        _figure7(CORRELATIONS, seeds=3, rows=1_400_000, dim=512),
        Part("tables1-4", "Tables 1, 2 and 4 on KuaiRand", tuple(_kuairand(tasks) for tasks in _KUAIRAND_TASKS)),
    ]


def quick_parts() -> list[Part]:
    """The same code and pages in a few minutes: too few runs and too little data to believe."""
    four = ("single_task", "mmoe", "cgc", "ple")
    return [
        Part(
            "table5",
            "Table 5: Census-Income, four models",
            (_census("table5-quick", 2, match="flops", variants=four, overrides=("train.epochs=2",)),),
        ),
        _figure7(
            (0.2, 0.8),
            seeds=1,
            rows=60_000,
            dim=64,
            variants=("single_task", "mmoe", "ple"),
            overrides=("train.epochs=4",),
        ),
    ]


_KUAIRAND_TASKS = (("valid_view", "completion"), ("click", "completion"), ("valid_view", "completion", "like"))


def _census(
    name: str, seeds: int, match: str, variants: Sequence[str] = (), overrides: Sequence[str] = ()
) -> Comparison:
    prepare = ("census", "--out", str(CENSUS))
    return Comparison(
        name, "census-compare", CENSUS, prepare, seeds, tuple(variants), match, (f"data.path={CENSUS}", *overrides)
    )


def _figure7(
    correlations: Sequence[float],
    *,
    seeds: int,
    rows: int,
    dim: int,
    variants: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Part:
    def comparison(correlation: float) -> Comparison:
        size = "" if rows == 1_400_000 else f"-{rows}x{dim}"
        data = Path(f"data/mmoe-synthetic-{correlation:g}{size}")
        prepare = ("mmoe-synthetic", "--correlation", str(correlation), "--rows", str(rows), "--dim", str(dim))
        return Comparison(
            f"fig7-{correlation:g}{size}",
            "synthetic-compare",
            data,
            (*prepare, "--out", str(data)),
            seeds,
            tuple(variants),
            "none",
            (f"data.path={data}", *overrides),
        )

    return Part(
        "fig7",
        "Fig. 7: two regressions, from unrelated to the same",
        tuple(comparison(correlation) for correlation in correlations),
        tuple(correlations),
    )


def _kuairand(tasks: Sequence[str]) -> Comparison:
    chosen = ", ".join(f'{{name = "{task}"}}' for task in tasks)
    return Comparison(
        "kuairand-" + "-".join(tasks),
        "kuairand-compare",
        KUAIRAND,
        (),
        5,
        overrides=(f"data.path={KUAIRAND}", f"tasks=[{chosen}]"),
    )
