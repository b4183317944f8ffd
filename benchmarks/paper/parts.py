"""Tables and figures of the paper as comparisons: their data, variants and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.errors import UserError

CORRELATIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
CENSUS, KUAIRAND, KUAIRAND_WHOLE = Path("data/census"), Path("data/kuairand-six-days"), Path("data/kuairand")
TENCENT, ALI_CCP = Path("data/tencent-synthetic-1M"), Path("data/ali-ccp")
_TENCENT_ROWS = 1_000_000
# Number of samples and of inputs, as in the MMoE paper.
FIGURE7_SIZE = (1_400_000, 512)
# The variants of each table of the paper; Table 1 has all ten.
_TABLE2 = ("single_task", "cross_stitch", "sluice", "mmoe", "ml_mmoe", "cgc", "ple")
_TABLE4 = ("single_task", "mmoe", "cgc", "ple")


@dataclass(frozen=True)
class PaperComparison:
    """Comparison of models that a part of the paper shows.

    Args:
        name: Name of the comparison and of its folder.
        recipe: Recipe of `ple-rec compare`.
        data: Dataset directory.
        prepare: Arguments of `ple-rec prep` that make the dataset; empty if the user has to make it.
        seeds: Number of seeds of each variant.
        variants: Names of the recipe's variants that take part; empty: all.
        match: Cost that is equal, `flops`, `params` or `none`; empty: the recipe's own.
        overrides: Overrides of every run.
        tune: Number of tuning trials of each variant before its runs.
    """

    name: str
    recipe: str
    data: Path
    prepare: tuple[str, ...]
    seeds: int
    variants: tuple[str, ...] = ()
    match: str = ""
    overrides: tuple[str, ...] = ()
    tune: int = 0


@dataclass(frozen=True)
class PaperPart:
    """Table or figure of the paper.

    Args:
        name: Name on the command line.
        title: Title with the table or figure that it reproduces.
        comparisons: Comparisons in the order in which they run.
        correlations: Correlation of each comparison if the part is Fig. 7; else empty.
    """

    name: str
    title: str
    comparisons: tuple[PaperComparison, ...]
    correlations: tuple[float, ...] = field(default=())


def all_parts(figure7_size: tuple[int, int] = FIGURE7_SIZE) -> list[PaperPart]:
    """Return all parts, as `make paper` makes them.

    Args:
        figure7_size: Number of samples and of inputs of each dataset of Fig. 7.
    """
    return [
        PaperPart(
            "table5",
            "Table 5: Census-Income, ten models",
            (
                _census("table5-as-published", 10, match="none"),
                _census("table5-equal-flops", 10, match="flops"),
                _census("table5-tuned", 10, match="flops", tune=20),
            ),
        ),
        _figure7(CORRELATIONS, 3, figure7_size),
        PaperPart("tables1-4", "Tables 1, 2 and 4 on KuaiRand", _kuairand()),
        PaperPart(
            "tencent",
            "Tables 1, 2 and 4 on a synthetic feed whose best reachable metrics are known",
            _tables("tencent", "tencent-compare", TENCENT, ("vtr", "vcr", "ctr", "share", "comment"), 3, _TENCENT),
        ),
        PaperPart(
            "ablation",
            "Sample spaces (Eq. 9) and decaying loss weights (Eq. 10), with and without",
            (
                PaperComparison(
                    "ablation", "ablation-compare", TENCENT, _TENCENT, 3, overrides=(f"data.path={TENCENT}",)
                ),
            ),
        ),
        PaperPart(
            "ali-ccp",
            "Table 5: Ali-CCP",
            (PaperComparison("ali-ccp", "ali-ccp-compare", ALI_CCP, (), 3, overrides=(f"data.path={ALI_CCP}",)),),
        ),
    ]


def quick_parts() -> list[PaperPart]:
    """Return parts that take a few minutes. They try code and pages; their results mean nothing."""
    four = ("single_task", "mmoe", "cgc", "ple")
    return [
        PaperPart(
            "table5",
            "Table 5: Census-Income, four models",
            (_census("table5-quick", 2, match="flops", variants=four, overrides=("train.epochs=2",)),),
        ),
        _figure7(
            (0.2, 0.8),
            1,
            (60_000, 64),
            variants=("single_task", "mmoe", "ple"),
            overrides=("train.epochs=4",),
        ),
    ]


_TENCENT = ("tencent-synthetic", "--rows", str(_TENCENT_ROWS), "--out", str(TENCENT))


def _census(
    name: str,
    seeds: int,
    match: str,
    tune: int = 0,
    variants: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> PaperComparison:
    prepare = ("census", "--out", str(CENSUS))
    settings = (f"data.path={CENSUS}", *overrides)
    return PaperComparison(name, "census-compare", CENSUS, prepare, seeds, tuple(variants), match, settings, tune)


def _figure7(
    correlations: Sequence[float],
    seeds: int,
    rows_dim: tuple[int, int],
    *,
    variants: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> PaperPart:
    rows, dim = rows_dim

    def comparison(correlation: float) -> PaperComparison:
        size = "" if rows_dim == FIGURE7_SIZE else f"-{rows}x{dim}"
        data = Path(f"data/mmoe-synthetic-{correlation:g}{size}")
        prepare = ("mmoe-synthetic", "--correlation", str(correlation), "--rows", str(rows), "--dim", str(dim))
        return PaperComparison(
            f"fig7-{correlation:g}{size}",
            "synthetic-compare",
            data,
            (*prepare, "--out", str(data)),
            seeds,
            tuple(variants),
            "none",
            (f"data.path={data}", *overrides),
        )

    return PaperPart(
        "fig7",
        "Fig. 7: two regressions, from unrelated to the same",
        tuple(comparison(correlation) for correlation in correlations),
        tuple(correlations),
    )


def _kuairand() -> tuple[PaperComparison, ...]:
    """Use the whole data set if it is prepared. Six days have too few shares and comments to tell models apart."""
    if (KUAIRAND_WHOLE / SUCCESS_FILE).exists():
        tasks = ("valid_view", "completion", "click", "like", "share", "comment")
        return _tables("kuairand-whole", "kuairand-compare", KUAIRAND_WHOLE, tasks, 5, ())
    return _tables("kuairand", "kuairand-compare", KUAIRAND, ("valid_view", "completion", "click", "like"), 5, ())


def _tables(
    name: str, recipe: str, data: Path, tasks: Sequence[str], seeds: int, prepare: tuple[str, ...]
) -> tuple[PaperComparison, ...]:
    """Return the comparisons of Tables 1, 2 and 4.

    Table 1 has ten models of view and completion, Table 2 seven of click and completion, Table 4 four of more tasks.

    Args:
        name: Prefix of the names of the comparisons.
        recipe: Recipe of `ple-rec compare`.
        data: Dataset directory.
        tasks: Names of the tasks view, completion and click, then of those that Table 4 adds one by one and together.
        seeds: Number of seeds of each variant.
        prepare: Arguments of `ple-rec prep` that make the dataset; empty if the user has to make it.
    """
    view, completion, click, *more = tasks
    added = [[task] for task in more] + ([more] if len(more) > 1 else [])
    groups: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((view, completion), ()), ((click, completion), _TABLE2)]
    groups += [((view, completion, *group), _TABLE4) for group in added]

    def comparison(chosen: Sequence[str], variants: tuple[str, ...]) -> PaperComparison:
        listed = ", ".join(f'{{name = "{task}"}}' for task in chosen)
        overrides = (f"data.path={data}", f"tasks=[{listed}]")
        return PaperComparison("-".join((name, *chosen)), recipe, data, prepare, seeds, variants, overrides=overrides)

    return tuple(comparison(chosen, variants) for chosen, variants in groups)


def some_of(parts: Sequence[PaperPart], names: Sequence[str]) -> list[PaperPart]:
    """Return the parts that are named; of other parts only the comparisons that are named.

    Args:
        parts: All parts.
        names: Names of parts or comparisons.

    Raises:
        UserError: No part and no comparison has such a name.
    """
    known = dict.fromkeys(name for part in parts for name in (part.name, *(each.name for each in part.comparisons)))
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            "--parts", f'got "{unknown[0]}"', "a part, or a comparison of one", f"choose of {', '.join(known)}"
        )
    chosen = []
    for part in parts:
        own = [i for i, each in enumerate(part.comparisons) if part.name in names or each.name in names]
        if own:
            points = tuple(part.correlations[i] for i in own) if part.correlations else ()
            chosen.append(replace(part, comparisons=tuple(part.comparisons[i] for i in own), correlations=points))
    return chosen
