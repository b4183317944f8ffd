"""docs/examples/drift_logs.py: its probabilities are those by which an observer would be right, and are ordered."""

from __future__ import annotations

import itertools
import json
import runpy
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

OBSERVERS = ("p_id", "p_history", "p_taste")


@pytest.fixture(scope="module")
def script(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "docs" / "examples" / "drift_logs.py"))


@pytest.fixture(scope="module")
def log(script: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    columns: dict[str, np.ndarray[Any, Any]] = script["simulate"](200, 200, 1)
    return columns


@pytest.mark.parametrize("observer", OBSERVERS)
def test_a_probability_is_the_share_of_clicks(log: dict[str, np.ndarray[Any, Any]], observer: str) -> None:
    p, click = log[observer], log["is_click"]
    for chunk in np.array_split(np.argsort(p), 8):
        deviation = np.sqrt((p[chunk] * (1 - p[chunk])).sum())
        assert abs(click[chunk].sum() - p[chunk].sum()) < 4 * deviation


def test_who_knows_more_loses_less(script: dict[str, Any], log: dict[str, np.ndarray[Any, Any]]) -> None:
    metrics = [script["auc_and_loss"](log["is_click"], log[observer]) for observer in OBSERVERS]
    for less, more in itertools.pairwise(metrics):
        assert more["auc"] > less["auc"] + 0.02
        assert more["log_loss"] < less["log_loss"] - 0.01


def test_the_observer_of_the_history_sums_over_all_tastes(
    script: dict[str, Any], log: dict[str, np.ndarray[Any, Any]]
) -> None:
    """The first five impressions of a user: the sum over all sequences of tastes, in place of the forward algorithm."""
    categories, lifetime = script["CATEGORIES"], script["LIFETIME"]
    rows = {name: values[log["user_id"] == 3][:5] for name, values in log.items()}
    shown, click, time = rows["category"], rows["is_click"], rows["time_ms"] - script["FIRST_MS"]
    # The probability of a click is linear in that of a liked category, so p_id of one video gives new_taste of it; the
    # probabilities with and without a liked category follow from the quality, which p_taste has in one of two forms.
    is_liked = rows["p_taste"] > rows["p_id"]
    quality = np.log(rows["p_taste"] / (1 - rows["p_taste"])) - np.where(is_liked, 1, -2)
    liked, other = (1 / (1 + np.exp(-quality - shift)) for shift in (1, -2))
    rest = (1 - script["FAVOURITE"]) / categories
    share_shown = (rows["p_id"] - other) / (liked - other)
    favourite = {int(c) for c, share in zip(shown, share_shown, strict=True) if share > rest + 0.1}
    new_taste = np.full(categories, rest)
    if favourite:
        new_taste[favourite.pop()] += script["FAVOURITE"]
    else:  # Another category than the five is the favourite, and any of these is as good here.
        new_taste[min(set(range(categories)) - {*shown.tolist()})] += script["FAVOURITE"]
    for n in range(5):
        seen = joint = 0.0
        for tastes in itertools.product(range(categories), repeat=n + 1):
            weight, before = 1.0, None
            for i, taste in enumerate(tastes):
                stays = 0.0 if before is None else np.exp((time[i - 1] - time[i]) / lifetime)
                weight *= (1 - stays) * new_taste[taste] + stays * (taste == before)
                p = liked[i] if taste == shown[i] else other[i]
                if i < n:
                    weight *= p if click[i] else 1 - p
                before = taste
            seen += weight
            joint += weight * p
        assert joint / seen == pytest.approx(rows["p_history"][n], rel=1e-9)


def test_the_files_are_those_that_the_docstring_names(repository: Path, tmp_path: Path) -> None:
    with chdir(tmp_path), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["drift_logs.py", "--users=20", "--rows=50"])
        runpy.run_path(str(repository / "docs" / "examples" / "drift_logs.py"), run_name="__main__")
    raw = tmp_path / "data" / "drift-raw"
    times = pq.read_table(raw / "log.parquet")["time_ms"].to_numpy()
    assert len(times) == 1_000
    assert (np.diff(times) >= 0).all()
    reachable = json.loads((raw / "reachable.json").read_text())
    assert {split: tuple(by_observer) for split, by_observer in reachable.items()} == dict.fromkeys(
        ("valid", "test"), OBSERVERS[::-1]
    )
