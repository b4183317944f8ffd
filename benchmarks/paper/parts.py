"""Tables and figures of the PLE paper, called its parts, and for each the comparisons that reproduce it."""

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
# Number of samples and of inputs of a dataset of Fig. 7, as in the MMoE paper.
FIGURE7_SIZE = (1_400_000, 512)
# Variants in each table of the paper; Table 1 has all ten.
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
        variants: Names of the recipe's variants that take part; empty for all.
        match: Cost that is made equal for all variants, `flops`, `params` or `none`; empty for that of the recipe.
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
        title: Title, which names the table or figure of the paper.
        comparisons: Comparisons in the order in which they run.
        correlations: Correlation of the two tasks in each comparison of Fig. 7; empty for any other part.
    """

    name: str
    title: str
    comparisons: tuple[PaperComparison, ...]
    correlations: tuple[float, ...] = field(default=())


def all_parts(figure7_size: tuple[int, int] = FIGURE7_SIZE) -> list[PaperPart]:
    """Return all parts at full size, as `make paper` makes them.

    Args:
        figure7_size: Number of samples and of inputs of each dataset of Fig. 7.
    """
    return [
        PaperPart(
            "table5",
            "Table 5: Census-Income, ten models",
            (
                _census_comparison("table5-as-published", 10, match="none"),
                _census_comparison("table5-equal-flops", 10, match="flops"),
                _census_comparison("table5-tuned", 10, match="flops", tune=20),
            ),
        ),
        _figure7_part(CORRELATIONS, 3, figure7_size),
        PaperPart("tables1-4", "Tables 1, 2 and 4 on KuaiRand", _kuairand_comparisons()),
        PaperPart(
            "tencent",
            "Tables 1, 2 and 4 on a synthetic feed whose best reachable metrics are known",
            _table_comparisons(
                "tencent", "tencent-compare", TENCENT, ("vtr", "vcr", "ctr", "share", "comment"), 3, _PREPARE_TENCENT
            ),
        ),
        PaperPart(
            "ablation",
            "Sample spaces (Eq. 9) and decaying loss weights (Eq. 10), with and without",
            (
                PaperComparison(
                    "ablation", "ablation-compare", TENCENT, _PREPARE_TENCENT, 3, overrides=(f"data.path={TENCENT}",)
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
    """Return reduced parts that take a few minutes. They test the code and the page; their results mean nothing."""
    four = ("single_task", "mmoe", "cgc", "ple")
    return [
        PaperPart(
            "table5",
            "Table 5: Census-Income, four models",
            (_census_comparison("table5-quick", 2, match="flops", variants=four, overrides=("train.epochs=2",)),),
        ),
        _figure7_part(
            (0.2, 0.8),
            1,
            (60_000, 64),
            variants=("single_task", "mmoe", "ple"),
            overrides=("train.epochs=4",),
        ),
    ]


_PREPARE_TENCENT = ("tencent-synthetic", "--rows", str(_TENCENT_ROWS), "--out", str(TENCENT))


def _census_comparison(
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


def _figure7_part(
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


def _kuairand_comparisons() -> tuple[PaperComparison, ...]:
    """Return the comparisons on the full KuaiRand dataset if it is prepared, else on its six days.

    Six days have too few shares and comments to tell models apart, so these tasks are left out.
    """
    if (KUAIRAND_WHOLE / SUCCESS_FILE).exists():
        tasks = ("valid_view", "completion", "click", "like", "share", "comment")
        return _table_comparisons("kuairand-whole", "kuairand-compare", KUAIRAND_WHOLE, tasks, 5, ())
    return _table_comparisons(
        "kuairand", "kuairand-compare", KUAIRAND, ("valid_view", "completion", "click", "like"), 5, ()
    )


def _table_comparisons(
    name: str, recipe: str, data: Path, tasks: Sequence[str], seeds: int, prepare: tuple[str, ...]
) -> tuple[PaperComparison, ...]:
    """Return the comparisons of Tables 1, 2 and 4.

    Table 1 has ten models of view and completion, Table 2 seven of click and completion, Table 4 four of more tasks.

    Args:
        name: Prefix of the names of the comparisons.
        recipe: Recipe of `ple-rec compare`.
        data: Dataset directory.
        tasks: Names of the tasks view, completion and click, in this order, then of the tasks that Table 4 adds, first
            one at a time and then all together.
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


def select_parts(parts: Sequence[PaperPart], names: Sequence[str]) -> list[PaperPart]:
    """Return the parts with the given names, and parts that are reduced to the comparisons with the given names.

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
        chosen_indices = [i for i, each in enumerate(part.comparisons) if part.name in names or each.name in names]
        if chosen_indices:
            points = tuple(part.correlations[i] for i in chosen_indices) if part.correlations else ()
            chosen.append(
                replace(part, comparisons=tuple(part.comparisons[i] for i in chosen_indices), correlations=points)
            )
    return chosen
