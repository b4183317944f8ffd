"""Study of one variant of a comparison: its trials, their files, and the best of them.

A variant is one model configuration. A trial is one training of it with values from a search space. `tune.json` is:

    {"format": 1, "metric", "seed", "space": {key: range}, "best": number of a trial | null,
     "trials": [{"number", "values": {key: value}, "state": "waiting" | "failed" | "finished", <metric>: value | null}]}

`<root>/<variant>/tune/trial-<n>` is the run directory of a trial; its checkpoints are removed when the trial has
finished. Beside it lie `trial-<n>.toml`, `trial-<n>.log` and `trial-<n>.failed`, as for a run of a seed.
`<root>/<variant>/tune.json` holds the space and the values of every trial, which are written before the trial starts.
The results are read from the run directories. So a study needs no database, and no finished trial is lost when the
program is stopped. A trial is "waiting" until it has ended.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.matrix import Variant
from ple_rec.analysis.compare.runs import VariantRun
from ple_rec.analysis.compare.tuning.sampler import (
    Space,
    TrialResult,
    batch_containing,
    propose,
    values_at,
    with_trial_values,
)
from ple_rec.analysis.compare.workers import Outcome
from ple_rec.analysis.series import FAILED, inspect_run
from ple_rec.config.load import with_values
from ple_rec.config.metrics import is_higher_better
from ple_rec.config.run import RunConfig
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import CHECKPOINTS, explain_write_errors, write_json, write_text
from ple_rec.text.json_values import as_mapping, as_number

FILE = "tune.json"
_FORMAT = 1


def space_record(space: Space) -> dict[str, Any]:
    """Return a search space in the form of `tune.json`."""
    return {dimension.key: dimension.domain.model_dump(mode="json", exclude_none=True) for dimension in space}


def read_values(folder: Path, space: Space) -> list[dict[str, Any]]:
    """Return the values of the trials in `tune.json`, by number; empty if the file is missing or cannot be read.

    Missing values are proposed again, and come out the same.

    Args:
        folder: Folder of the variant.
        space: Search space of the trials.

    Raises:
        UserError: The file has another search space.
    """
    file = folder / FILE
    try:
        record: Mapping[str, Any] = as_mapping(json.loads(file.read_text(encoding="utf-8")))
        trials = record.get("trials")
        if record.get("format") != _FORMAT or not isinstance(trials, list):
            return []
        values = [dict(trial["values"]) for trial in trials]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    if record.get("space") != space_record(space):
        raise UserError(
            str(file),
            f"holds trials of another space ({', '.join(as_mapping(record.get('space')))})",
            "all trials of a variant have one search space",
            f"give tune.space as it was, another {Option.RUNS.with_value('DIR')}, or {Option.OVERWRITE} to start the "
            "trials anew",
        )
    return values


def write_record(folder: Path, metric: str, seed: int, space: Space, trials: list[dict[str, Any]], best: Any) -> None:
    """Write `tune.json`, whole or not at all.

    Args:
        folder: Folder of the variant.
        metric: Metric that judges trials.
        seed: Seed of the trials.
        space: Search space of the trials.
        trials: Record of each trial, by number.
        best: Number of the best trial; None if none has finished.

    Raises:
        UserError: The file cannot be written.
    """
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    record = {"format": _FORMAT, "metric": metric, "seed": seed, "space": space_record(space)}
    write_json(folder / FILE, record | {"trials": trials, "best": best})


# Folder of the run directories of trials, in the folder of the variant.
FOLDER = "tune"
# Trials do not read the test split or write to loggers, and keep only the checkpoint that a resumed trial needs.
_TRIAL_SETTINGS = {
    "evaluation.test": False,
    "evaluation.slices": None,
    "checkpoint.path": None,
    "checkpoint.keep": 1,
    "checkpoint.keep_every": None,
    "watch.tensorboard": False,
    "watch.mlflow": None,
}


@dataclass
class Study:
    """Trials of a variant and their results.

    Args:
        variant: Variant before tuning; its cost equals that of the others, unless `match` is "none".
        space: Search space of the trials.
        trials: Number of trials to train.
        seed: Seed of the training in all trials.
        dataset_fingerprint: Fingerprint of the dataset.
        folder: Folder of the variant.
        trial_values: Values of the trials, by number; more than `trials` if an earlier call asked for more.
        result_by_number: Result of each trial that has ended, by number.
        submitted: Numbers of the trials that `next_runs` has returned.
    """

    variant: Variant
    space: Space
    trials: int
    seed: int
    dataset_fingerprint: str
    folder: Path
    trial_values: list[dict[str, Any]] = field(default_factory=list)
    result_by_number: dict[int, TrialResult] = field(default_factory=dict)
    submitted: set[int] = field(default_factory=set)

    @property
    def metric(self) -> str:
        """Metric that chooses the best trial, as it chooses the best checkpoint of a run."""
        return self.variant.config.train.best_metric

    @property
    def trials_left(self) -> int:
        """Number of trials that have not ended."""
        return self.trials - sum(n < self.trials for n in self.result_by_number)

    @property
    def trials_to_begin(self) -> int:
        """Number of trials that have neither begun nor ended."""
        return sum(n not in self.result_by_number and n not in self.submitted for n in range(self.trials))

    @property
    def results(self) -> list[TrialResult | None]:
        """Result of every trial by number; None for those that have not ended."""
        return [self.result_by_number.get(n) for n in range(self.trials)]

    @property
    def best(self) -> int | None:
        """Number of the best trial, the first one among equals; None if no trial has finished."""
        scores = {n: result.score for n, result in enumerate(self.results) if result and result.score is not None}
        return max(scores, key=lambda n: (scores[n], -n), default=None)

    def metric_value(self, number: int) -> float | None:
        """Return the metric of a trial; None if it failed, or has not ended."""
        # A score is the metric, negated if lower is better; no metric is below 0.
        result = self.result_by_number.get(number)
        return None if result is None or result.score is None else abs(result.score)

    def best_values(self) -> dict[str, Any]:
        """Return the values of the best trial; if none has finished, those of trial 0, which change nothing."""
        return dict(self.trial_values[self.best or 0])

    def read(self, *, overwrite: bool, remove: bool) -> None:
        """Read the trials of earlier calls.

        Args:
            overwrite: True to forget trials of another space, configuration or dataset.
            remove: True to remove the files of forgotten trials, and the checkpoints of finished ones.

        Raises:
            UserError: There are trials of another space, configuration or dataset, and `overwrite` is False.
        """
        self.submitted = set()
        try:
            self._read()
        except UserError:
            if not overwrite:
                raise
            self.trial_values, self.result_by_number = [], {}
            if remove:
                with explain_write_errors(self.folder):
                    shutil.rmtree(self.folder / FOLDER, ignore_errors=True)
                    (self.folder / FILE).unlink(missing_ok=True)
        if remove:
            self._drop_checkpoints()

    def next_runs(self) -> list[tuple[int, VariantRun]]:
        """Return the runs of the trials that can begin, with their numbers, and mark these trials as submitted.

        The trials of a batch can begin once all trials of the earlier batches have ended.

        Raises:
            UserError: A file cannot be written.
        """
        while waiting := [n for n in range(self.trials) if n not in self.result_by_number]:
            batch = batch_containing(waiting[0])
            numbers = [n for n in batch if n < self.trials]
            # Keep values that were drawn before.
            if (known := len(self.trial_values)) <= numbers[-1]:
                self.trial_values += self._propose(batch.start, len(numbers))[known - batch.start :]
                # If `tune.json` was lost, directories of these trials exist already.
                for n in numbers:
                    self._read_outcome(n)
                self.write()
            if left := [n for n in numbers if n not in self.result_by_number]:
                ready = [n for n in left if n not in self.submitted]
                self.submitted.update(ready)
                return [(n, self.trial_run(n)) for n in ready]
        return []

    def trial_run(self, number: int) -> VariantRun:
        """Return the run of a trial."""
        config = with_trial_values(self.variant.name, self.variant.config, self.trial_values[number])
        config = with_values(config, {**_TRIAL_SETTINGS, "seed": self.seed})
        return VariantRun(self.variant.name, self.seed, config, self._directory(number))

    def record_outcome(self, number: int, outcome: Outcome) -> None:
        """Record the result of a trial whose run has ended.

        Raises:
            UserError: A file cannot be written.
        """
        # The result in the directory has priority, since a process may be killed after it has written it.
        self._read_outcome(number)
        if number not in self.result_by_number:
            reason = outcome.message or f"{self.metric} was never evaluated"
            write_text(self.trial_run(number).sibling_file(FAILED), reason + "\n")
            self.result_by_number[number] = TrialResult(self.trial_values[number], None)
        self._drop_checkpoints()
        self.write()

    def write(self) -> None:
        """Write `tune.json`.

        Raises:
            UserError: The file cannot be written.
        """
        trials = [
            {"number": n, "values": values, "state": self._state(n), self.metric: self.metric_value(n)}
            for n, values in enumerate(self.trial_values)
        ]
        write_record(self.folder, self.metric, self.seed, self.space, trials, self.best)

    def failure_reason(self, number: int) -> str:
        """Return the reason why a trial failed; empty if it did not."""
        file = self.trial_run(number).sibling_file(FAILED)
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    def _propose(self, first: int, count: int) -> list[dict[str, Any]]:
        """Return the values of the first `count` trials of the batch that begins with trial `first`.

        Trial 0 has the values of the configuration before tuning.
        """
        earlier = [self.result_by_number[n] for n in range(first)]
        if first:
            return propose(self.space, first, count, earlier)
        return [self._untuned_values(), *propose(self.space, first, count - 1, earlier)]

    def _untuned_values(self) -> dict[str, Any]:
        """Return the values of the configuration before tuning, at the keys of the space."""
        return values_at(self.variant.config, *(dimension.key for dimension in self.space))

    def _read(self) -> None:
        self.trial_values, self.result_by_number = read_values(self.folder, self.space), {}
        if self.trial_values and self.trial_values[0] != self._untuned_values():
            before, now = (
                ", ".join(f"{k} = {v}" for k, v in each.items())
                for each in (self.trial_values[0], self._untuned_values())
            )
            raise UserError(
                str(self.folder / FILE),
                f"trial 0 has {before}; the configuration has {now}",
                "trial 0 has the values of the configuration before tuning",
                f"restore the configuration, give another {Option.RUNS.with_value('DIR')}, or {Option.OVERWRITE} to "
                "start the trials anew",
            )
        for n in range(len(self.trial_values)):
            self._read_outcome(n)

    def _read_outcome(self, n: int) -> None:
        """Read the result of a trial from its directory, if it has ended."""
        run = self.trial_run(n)
        state = inspect_run(run.directory, run.config, self.dataset_fingerprint)
        state.refuse_foreign()
        if state.kind == "finished" and (value := as_number(state.metrics.get("best_value"))) is not None:
            self.result_by_number[n] = TrialResult(
                self.trial_values[n], value if is_higher_better(self.metric) else -value
            )
        elif state.kind == "failed":
            self.result_by_number[n] = TrialResult(self.trial_values[n], None)

    def _drop_checkpoints(self) -> None:
        """Remove the checkpoints of trials that have finished, since no training continues from them."""
        for n, result in self.result_by_number.items():
            if result.score is not None:
                shutil.rmtree(self._directory(n) / CHECKPOINTS, ignore_errors=True)

    def _directory(self, n: int) -> Path:
        return self.folder / FOLDER / f"trial-{n}"

    def _state(self, n: int) -> str:
        result = self.result_by_number.get(n)
        return "waiting" if result is None else "failed" if result.score is None else "finished"


def best_config(study: Study) -> RunConfig:
    """Return the variant's configuration with the values of its best trial; if none has finished, of trial 0."""
    return with_trial_values(study.variant.name, study.variant.config, study.best_values())
