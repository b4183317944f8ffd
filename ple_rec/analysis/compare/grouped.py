"""GAUC by group and by subgroup in a comparison, and sentences on tasks for which their verdicts differ.

A group is a user, for example, and a subgroup a day of a user. Users click more on some days than on others. So a
model that orders the rows of each day better may order all rows of a user worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ple_rec.config.metrics import GAUC, GAUCS, SUBGROUP_GAUC
from ple_rec.text.json_values import as_mapping


def find_gauc_names(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the names of group and subgroup by the key of their GAUC; empty without subgroups.

    Args:
        runs: Contents of `metrics.json`. Runs on one dataset have the same names.
    """
    return dict(next((names for metrics in runs if (names := as_mapping(metrics.get("gauc_by")))), {}))


def judge_gauc(variant: Mapping[str, Any], judge: Callable[[Any], str]) -> dict[str, dict[str, str]]:
    """Return the verdict on each GAUC gain of a variant, by task and metric.

    Args:
        variant: Entry of the variant in compare.json.
        judge: Function from a gain to its verdict.
    """
    return {
        task: {metric: judge(metrics[metric]["gain"]) for metric in GAUCS}
        for task, metrics in variant.get("gauc", {}).items()
    }


def disagreements(
    name: str,
    baseline: str,
    variant: Mapping[str, Any],
    verdicts: Mapping[str, Mapping[str, str]],
    names: Mapping[str, str],
) -> list[str]:
    """Return a sentence for each task on which the verdicts on both GAUC gains of a variant differ.

    Args:
        name: Name of the variant.
        baseline: Name of the baseline.
        variant: Entry of the variant in compare.json.
        verdicts: Verdicts that `judge_gauc` has returned.
        names: Names of group and subgroup by the key of their GAUC.
    """
    sentences = []
    for task, verdict in verdicts.items():
        if verdict[GAUC] == verdict[SUBGROUP_GAUC] or "not judged" in verdict.values():
            continue
        gains = [
            f"{verdict[metric]} by {names[metric]} ({variant['gauc'][task][metric]['gain']['mean']:+.2g})"
            for metric in GAUCS
        ]
        sentences.append(
            f"The two GAUCs of {task} differ: against {baseline}, {name} is {' and '.join(gains)}. "
            f"A feed ranks the rows of one {names[SUBGROUP_GAUC]}."
        )
    return sentences
