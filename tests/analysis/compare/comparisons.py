"""Comparisons over the tiny dataset, and workers that leave what a real run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ple_rec.analysis.compare.matrix import Matrix, build_matrix
from ple_rec.analysis.compare.workers import Outcome, Worker
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import fingerprint, load_config, load_schema
from ple_rec.config.run import RunConfig
from ple_rec.runs.layout import ANALYSIS_PAGE, TEST_ROWS
from tests.tiny import write_tiny

MMOE = ("model.variant=mmoe", "model.experts=3", "model.expert_hidden=[4]")


def comparison(folder: Path, **changes: object) -> CompareConfig:
    """PLE and MMoE of the tiny configuration, two seeds, costs as they are; its files are written to `folder`."""
    if not (folder / "data").exists():
        write_tiny(folder)
    variants = {"ple": {"base": "tiny.toml"}, "mmoe": {"base": "tiny.toml", "overrides": list(MMOE)}}
    raw = {"name": "cmp", "seeds": 2, "match": "none", "variants": variants} | changes
    return CompareConfig.model_validate_json(json.dumps(raw))


def matrix(folder: Path, *overrides: str, **changes: object) -> Matrix:
    """Its matrix; the working directory is `folder`."""
    return build_matrix(comparison(folder, **changes), folder, overrides)


class Trainer(Worker):
    """Stands for a worker: leaves `metrics.json` with an AUC by variant and seed, or fails as it is told.

    Args:
        failing: Run directories, as `<variant>/seed-<n>`, with how they end.
    """

    def __init__(self, failing: dict[str, Outcome] | None = None) -> None:
        super().__init__(["false"])
        self.failing = failing or {}
        self.trained: list[str] = []

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        """See `Worker.run`."""
        log.write_text("")
        self.trained.append(f"{run_dir.parent.name}/{run_dir.name}")
        if (outcome := self.failing.get(self.trained[-1])) is not None:
            return outcome
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.toml").write_text(config.read_text())
        found = load_config(RunConfig, config)
        auc = {"single_task": 0.7, "mmoe": 0.69, "ple": 0.72}[found.name] + found.seed / 1000
        metrics = {
            "test": {"tasks": {task: {"auc": auc, "samples": 64} for task in ("click", "like")}},
            "config_fingerprint": fingerprint(found),
            "dataset_fingerprint": load_schema(found.data.path).fingerprint,
            "samples_per_second": 100.0,
        }
        (run_dir / "metrics.json").write_text(json.dumps(metrics))
        labels = np.tile([[0.0, 1.0], [1.0, 0.0]], (20, 1)).astype(np.float32)
        scores = labels * 0.1 + np.random.default_rng(found.seed).random(labels.shape).astype(np.float32)
        np.savez(
            run_dir / TEST_ROWS,
            labels=labels,
            weights=np.ones_like(labels),
            scores=scores,
            group=np.arange(40) // 2,
            tasks=np.array(["click", "like"]),
        )
        (run_dir / ANALYSIS_PAGE).write_text(log.name)
        return Outcome(0)
