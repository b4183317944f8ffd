"""Workers of tuned comparisons: real runs in this process, and ones whose metric is known."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path

from ple_rec.analysis.compare.one_run import train_one
from ple_rec.analysis.compare.workers import Outcome, Worker
from ple_rec.config.load import fingerprint, load_config, load_schema
from ple_rec.config.run import RunConfig
from ple_rec.errors import PleRecError
from ple_rec.reports.analysis.page import write_analysis
from tests.analysis.compare.comparisons import Trainer

RATE = "dense_optimizer.learning_rate"
SPACE = {RATE: {"low": 1e-4, "high": 1e-1, "log": True}, "model.dropout": {"low": 0, "high": 0.5}}


def loss_of(config: RunConfig) -> float:
    """Least at a rate of 0.01 and a dropout of 0.2."""
    return 1.0 + math.log10(config.dense_optimizer.learning_rate / 0.01) ** 2 + (config.model.dropout - 0.2) ** 2


class Real(Worker):
    """Trains in this process."""

    def __init__(self) -> None:
        super().__init__(["false"])
        self.trained: list[str] = []

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        """See `Worker.run`."""
        log.write_text("")
        self.trained.append("/".join(run_dir.parts[2:]))
        try:
            train_one(load_config(RunConfig, config), run_dir, write_analysis)
        except PleRecError as error:
            return Outcome(error.exit_code, str(error))
        return Outcome(0)


class Known(Trainer):
    """Leaves what a real trial leaves, with a loss that is known, after a while.

    Args:
        failing: Trials, as `<variant>/trial-<n>`, with how they end.
        stops_at: Trials after which this process is told to stop.
    """

    def __init__(self, failing: dict[str, Outcome] | None = None, stops_at: int | None = None) -> None:
        super().__init__(failing)
        self.trials: list[str] = []
        self._stops_at = stops_at

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        """See `Worker.run`."""
        found = load_config(RunConfig, config)
        if found.evaluation.test is not False:
            return super().run(config, run_dir, log)
        if len(self.trials) == self._stops_at:
            raise KeyboardInterrupt
        name = f"{found.name}/{run_dir.name}"
        self.trials.append(name)
        log.write_text("")
        time.sleep(random.random() / 200)  # trials end in any order
        if (outcome := self.failing.get(name)) is not None:
            return outcome
        (run_dir / "checkpoints" / "step-1").mkdir(parents=True)
        (run_dir / "config.toml").write_text(config.read_text())
        metrics = {
            "best_value": loss_of(found),
            "config_fingerprint": fingerprint(found),
            "dataset_fingerprint": load_schema(found.data.path).fingerprint,
        }
        (run_dir / "metrics.json").write_text(json.dumps(metrics))
        return Outcome(0)
