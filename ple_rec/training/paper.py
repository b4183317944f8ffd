"""The paper's published figures, shown beside a run's own where dataset and task are the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PLE = {"model": "PLE", "table": "Table 5"}

# Tang et al., RecSys 2020, doi 10.1145/3383313.3412236.
FIGURES: dict[str, dict[str, dict[str, Any]]] = {
    "census": {"income": {"auc": 0.9522, **_PLE}, "never_married": {"auc": 0.9945, **_PLE}},
    "ali-ccp": {"ctr": {"auc": 0.6112, **_PLE}, "cvr": {"auc": 0.6097, **_PLE}},
}


def paper_figures(dataset: str, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """PLE's figures of the paper for those of `tasks` that it reports on `dataset`."""
    known = FIGURES.get(dataset, {})
    return {task: known[task] for task in tasks if task in known}
