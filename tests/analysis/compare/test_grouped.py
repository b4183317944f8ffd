"""GAUC by user and by user and day in a comparison: what a variant loses by one and gains by the other is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ple_rec.analysis.compare import compare as module
from ple_rec.analysis.compare.compare import run_comparison
from ple_rec.analysis.compare.resampling import draw_counts, resampled_metrics
from ple_rec.analysis.compare.workers import Outcome
from ple_rec.api.comparisons import Comparison
from ple_rec.reports.compare.page import report_comparison
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import TEST_ROWS
from tests.analysis.compare.comparisons import Trainer, comparison
from tests.messages import logged
from tests.metrics.groups import Row, truth

NAMES = {"gauc": "user_id", "subgroup_gauc": "user_id, time.day"}
USERS = 12
# A user has three of four clicks on one day, and one of four on the other.
LABELS = np.tile([1, 1, 1, 0, 1, 0, 0, 0], USERS).astype(np.float32)
DAY = np.tile([0, 0, 0, 0, 1, 1, 1, 1], USERS)
# The baseline knows the days alone, and PLE orders each day but takes the better one for the worse.
SCORES = {"single_task": 1 - DAY, "ple": DAY + LABELS / 10, "mmoe": 1 - DAY}
GAUCS = {"single_task": (0.75, 0.5), "ple": (0.4375, 1.0), "mmoe": (0.75, 0.5)}


class GroupedTrainer(Trainer):
    """Leaves both GAUCs of `click`, and rows that have them."""

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        outcome = super().run(config, run_dir, log)
        variant, seed = run_dir.parent.name, int(run_dir.name.removeprefix("seed-"))
        metrics = json.loads((run_dir / "metrics.json").read_text()) | {"gauc_by": NAMES}
        values = {key: value + seed / 10_000 for key, value in zip(NAMES, GAUCS[variant], strict=True)}
        metrics["test"]["tasks"]["click"] |= values
        (run_dir / "metrics.json").write_text(json.dumps(metrics))
        labels = np.stack([LABELS, LABELS], axis=1)
        np.savez(
            run_dir / TEST_ROWS,
            labels=labels,
            weights=np.ones_like(labels),
            scores=np.stack([SCORES[variant]] * 2, axis=1).astype(np.float32),
            group=np.arange(8 * USERS) // 8,
            subgroup=1000 - np.arange(8 * USERS) // 4,
            tasks=np.array(["click", "like"]),
        )
        return outcome


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """Content of compare.json, and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "Worker", lambda **_: GroupedTrainer())
    said: list[str] = []
    root = Path("runs/cmp")
    with logged(said.append):
        run_comparison(comparison(tmp_path), tmp_path, (), RunDirectory(root, root), report=report_comparison, jobs=1)
    return json.loads((root / "compare.json").read_text()), "\n".join(said)


def test_both_gaucs_are_judged_and_their_difference_is_said(results: tuple[dict[str, Any], str]) -> None:
    document, said = results
    assert document["gauc_by"] == NAMES
    gauc = {metric: entry["gain"] for metric, entry in document["variants"]["ple"]["gauc"]["click"].items()}
    for metric, gain in (("gauc", -0.3125), ("subgroup_gauc", 0.5)):
        assert gauc[metric]["mean"] == pytest.approx(gain)
        assert gauc[metric]["row_interval"] == pytest.approx([gain, gain])
    assert document["variants"]["ple"]["gauc"].keys() == {"click"}
    assert document["verdict"]["variants"]["ple"]["gauc"] == {"click": {"gauc": "worse", "subgroup_gauc": "better"}}
    sentence = (
        "The two GAUCs of click differ: against single_task, ple is worse by user_id (-0.31) and better by user_id, "
        "time.day (+0.5). A feed ranks the rows of one user_id, time.day."
    )
    assert [each for each in document["verdict"]["sentences"] if "GAUC" in each] == [sentence]
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "click, GAUC by user_id MTL gain verdict by user_id, time.day MTL gain verdict" in lines
    assert "ple 0.4375 +- 0.0001 -0.31250 worse 1.0000 +- 0.0001 +0.50000 better" in lines
    page = Path("runs/cmp/compare.html").read_text()
    assert sentence in page
    assert "<th>by user_id, time.day</th>" in page
    table = Comparison(Path("runs/cmp"), document, []).table().to_pylist()
    assert [row["mean"] for row in table if (row["variant"], row["metric"]) == ("ple", "subgroup_gauc")] == [
        pytest.approx(1.00005)
    ]


def test_every_resample_of_gauc_is_what_a_direct_computation_gives() -> None:
    random = np.random.default_rng(0)
    group_N = np.sort(random.integers(-1, 20, 300))
    rows: dict[str, NDArray[Any]] = {
        "labels": (random.random((300, 1)) < 0.4).astype(np.float32),
        "scores": np.round(random.random((300, 1)), 1).astype(np.float32),
        "weights": (random.random((300, 1)) * (random.random((300, 1)) < 0.8)).astype(np.float32),
        "group": group_N,
        "subgroup": np.where(group_N == -1, -1, 1000 - 2 * group_N + random.integers(0, 2, 300)),
    }
    found_MR = resampled_metrics(rows, [(0, "gauc"), (0, "subgroup_gauc")], 20)
    known = np.unique(group_N[group_N >= 0])
    # The rows of no group, which have no AUC, come after the groups.
    counts_GR = np.concatenate(list(draw_counts(len(known) + int((group_N == -1).sum()), 20)), axis=1)[: len(known)]
    for found_R, name in zip(found_MR, ("group", "subgroup"), strict=True):
        parts = {part: group for part, group in zip(rows[name].tolist(), group_N.tolist(), strict=True) if part >= 0}
        areas: dict[int, list[tuple[float, float]]] = {}
        for part, group in parts.items():
            members = np.flatnonzero((rows[name] == part) & (rows["weights"][:, 0] > 0))
            columns = (rows[key][members, 0].astype(float).tolist() for key in ("scores", "labels", "weights"))
            own: list[Row] = list(zip([0] * len(members), *columns, strict=True))
            if (gauc := truth(own).gauc) is not None:
                areas.setdefault(group, []).append((gauc, sum(row[3] for row in own)))
        for r in range(20):
            drawn = [
                (auc, weight * counts_GR[g, r]) for g, group in enumerate(known) for auc, weight in areas.get(group, [])
            ]
            expected = sum(auc * weight for auc, weight in drawn) / sum(weight for _, weight in drawn)
            assert found_R[r] == pytest.approx(expected, rel=1e-6)
