"""Study of one variant: its trials, their files, and the best of them.

    {"format": 1, "metric", "seed", "space": {key: range}, "best": number | null,
     "trials": [{"number", "values": {key: value}, "state": "waiting" | "failed" | "finished", <metric>: value | null}]}

`<root>/<variant>/tune/trial-<n>` is a trial's run directory without its checkpoints. Beside it lie `trial-<n>.toml`,
`.log` and `.failed`, as for a run of a seed. `<root>/<variant>/tune.json` holds the space and the values of every
trial, which are written before the trial starts. Outcomes are read from the directories, so that a study needs no
database and loses no finished trial, whenever the program is stopped.
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
from ple_rec.analysis.compare.tuning.sampler import Space, TrialResult, batch_of, propose, settings_of, with_settings
from ple_rec.analysis.compare.workers import Outcome
from ple_rec.analysis.series import FAILED, inspect_run
from ple_rec.config.load import with_values
from ple_rec.config.metrics import is_higher_better
from ple_rec.config.run import RunConfig
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import CHECKPOINTS, write_json, write_text, writing
from ple_rec.text.json_values import mapping, number

FILE = "tune.json"
_FORMAT = 1


def space_record(space: Space) -> dict[str, Any]:
    """Return a search space in the form of `tune.json`."""
    return {dimension.key: dimension.domain.model_dump(mode="json", exclude_none=True) for dimension in space}


def read_values(folder: Path, space: Space) -> list[dict[str, Any]]:
    """Return the values of the trials in `tune.json`, by number; empty without the file, or if it is damaged.

    Values that are missing are proposed again, and are the same.

    Args:
        folder: Folder of the variant.
        space: Search space of the trials.

    Raises:
        UserError: The file is of another search space.
    """
    file = folder / FILE
    try:
        record: Mapping[str, Any] = mapping(json.loads(file.read_text()))
        trials = record.get("trials")
        if record.get("format") != _FORMAT or not isinstance(trials, list):
            return []
        values = [dict(trial["values"]) for trial in trials]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    if record.get("space") != space_record(space):
        raise UserError(
            str(file),
            f"holds trials of another space ({', '.join(mapping(record.get('space')))})",
            "the trials of a variant are of one space",
            f"give tune.space as it was, another {Option.RUNS.to('DIR')}, or {Option.OVERWRITE} to start the "
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
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    record = {"format": _FORMAT, "metric": metric, "seed": seed, "space": space_record(space)}
    write_json(folder / FILE, record | {"trials": trials, "best": best})


FOLDER = "tune"
# Trials do not read the test split, keep checkpoints or feed loggers.
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
        variant: Variant as it is written, with equal cost.
        space: Search space of the trials.
        trials: Number of trials to train.
        seed: Seed of all trials.
        dataset: Fingerprint of the dataset.
        folder: Folder of the variant.
        settings: Values of the trials, by number; more than `trials` if an earlier call asked for more.
        outcomes: Result of each trial that has ended, by number.
        submissions: Numbers of the trials that `next_runs` has returned.
    """

    variant: Variant
    space: Space
    trials: int
    seed: int
    dataset: str
    folder: Path
    settings: list[dict[str, Any]] = field(default_factory=list)
    outcomes: dict[int, TrialResult] = field(default_factory=dict)
    submissions: set[int] = field(default_factory=set)

    @property
    def metric(self) -> str:
        """Metric that judges trials; it also chooses the best checkpoint of a run."""
        return self.variant.config.train.best_metric

    @property
    def left(self) -> int:
        """Number of trials that have not ended."""
        return self.trials - sum(number < self.trials for number in self.outcomes)

    @property
    def later(self) -> int:
        """Number of trials that have neither begun nor ended."""
        return sum(number not in self.outcomes and number not in self.submissions for number in range(self.trials))

    @property
    def results(self) -> list[TrialResult | None]:
        """Result of every trial by number; None for those that have not ended."""
        return [self.outcomes.get(number) for number in range(self.trials)]

    @property
    def best(self) -> int | None:
        """Number of the best trial, the first of equals; None if none has finished."""
        scores = {n: result.score for n, result in enumerate(self.results) if result and result.score is not None}
        return max(scores, key=lambda n: (scores[n], -n), default=None)

    def value(self, number: int) -> float | None:
        """Return the metric of a trial; None if it failed, or has not ended."""
        result = self.outcomes.get(number)
        return None if result is None or result.score is None else abs(result.score)

    def tuned(self) -> dict[str, Any]:
        """Return the values of the best trial; if all failed, those of the configuration as it is written."""
        return dict(self.settings[self.best or 0])

    def read(self, *, overwrite: bool, remove: bool) -> None:
        """Read the trials of earlier calls.

        Args:
            overwrite: True to replace trials of another space or configuration.
            remove: True to remove those now, and the checkpoints of trials that have finished.

        Raises:
            UserError: There are such trials, and `overwrite` is False.
        """
        self.submissions = set()
        try:
            self._read()
        except UserError:
            if not overwrite:
                raise
            self.settings, self.outcomes = [], {}
            if remove:
                with writing(self.folder):
                    shutil.rmtree(self.folder / FOLDER, ignore_errors=True)
                    (self.folder / FILE).unlink(missing_ok=True)
        if remove:
            self._drop_checkpoints()

    def next_runs(self) -> list[tuple[int, VariantRun]]:
        """Return the trials that can begin, by number: those of a batch, once every trial before it has ended.

        Raises:
            UserError: A file cannot be written.
        """
        while waiting := [n for n in range(self.trials) if n not in self.outcomes]:
            batch = batch_of(waiting[0])
            numbers = [n for n in batch if n < self.trials]
            # Values that were drawn once do not change.
            if (known := len(self.settings)) <= numbers[-1]:
                self.settings += self._propose(batch.start, len(numbers))[known - batch.start :]
                # If `tune.json` was lost, directories of these trials exist already.
                for n in numbers:
                    self._read_outcome(n)
                self.write()
            if left := [n for n in numbers if n not in self.outcomes]:
                ready = [n for n in left if n not in self.submissions]
                self.submissions.update(ready)
                return [(n, self.run(n)) for n in ready]
        return []

    def run(self, number: int) -> VariantRun:
        """Return the run of a trial."""
        config = with_settings(self.variant.name, self.variant.config, self.settings[number])
        config = with_values(config, {**_TRIAL_SETTINGS, "seed": self.seed})
        return VariantRun(self.variant.name, self.seed, config, self._directory(number))

    def end(self, number: int, outcome: Outcome) -> None:
        """Record the result of a trial whose run has ended.

        Raises:
            UserError: A file cannot be written.
        """
        # The directory counts, since a process may be killed after it has written the results.
        self._read_outcome(number)
        if number not in self.outcomes:
            reason = outcome.message or f"{self.metric} was never evaluated"
            write_text(self.run(number).beside(FAILED), reason + "\n")
            self.outcomes[number] = TrialResult(self.settings[number], None)
        self._drop_checkpoints()
        self.write()

    def write(self) -> None:
        """Write `tune.json`.

        Raises:
            UserError: The file cannot be written.
        """
        trials = [
            {"number": n, "values": values, "state": self._state(n), self.metric: self.value(n)}
            for n, values in enumerate(self.settings)
        ]
        write_record(self.folder, self.metric, self.seed, self.space, trials, self.best)

    def failed(self, number: int) -> str:
        """Return the reason why a trial failed; empty if it did not."""
        file = self.run(number).beside(FAILED)
        return file.read_text().strip() if file.is_file() else ""

    def _propose(self, first: int, count: int) -> list[dict[str, Any]]:
        earlier = [self.outcomes[n] for n in range(first)]
        if first:
            return propose(self.space, first, count, earlier)
        return [self._written(), *propose(self.space, first, count - 1, earlier)]

    def _written(self) -> dict[str, Any]:
        """Return the values of the configuration at the keys of the space."""
        return settings_of(self.variant.config, *(dimension.key for dimension in self.space))

    def _read(self) -> None:
        self.settings, self.outcomes = read_values(self.folder, self.space), {}
        if self.settings and self.settings[0] != self._written():
            before, now = (
                ", ".join(f"{k} = {v}" for k, v in each.items()) for each in (self.settings[0], self._written())
            )
            raise UserError(
                str(self.folder / FILE),
                f"trial 0 is of {before}; the configuration has {now}",
                "trial 0 is the configuration as it is written",
                f"write it as it was, give another {Option.RUNS.to('DIR')}, or {Option.OVERWRITE} to start the "
                "trials anew",
            )
        for n in range(len(self.settings)):
            self._read_outcome(n)

    def _read_outcome(self, n: int) -> None:
        """Read from the directory of a trial whether it has ended, and how."""
        run = self.run(n)
        state = inspect_run(run.directory, run.config, self.dataset)
        state.refuse_foreign()
        if state.kind == "finished" and (value := number(state.metrics.get("best_value"))) is not None:
            self.outcomes[n] = TrialResult(self.settings[n], value if is_higher_better(self.metric) else -value)
        elif state.kind == "failed":
            self.outcomes[n] = TrialResult(self.settings[n], None)

    def _drop_checkpoints(self) -> None:
        """Remove the checkpoints of trials that have finished, since no training continues from them."""
        for n, result in self.outcomes.items():
            if result.score is not None:
                shutil.rmtree(self._directory(n) / CHECKPOINTS, ignore_errors=True)

    def _directory(self, n: int) -> Path:
        return self.folder / FOLDER / f"trial-{n}"

    def _state(self, n: int) -> str:
        result = self.outcomes.get(n)
        return "waiting" if result is None else "failed" if result.score is None else "finished"


def tuned_config(study: Study) -> RunConfig:
    """Return the variant's configuration with the values of its best trial."""
    return with_settings(study.variant.name, study.variant.config, study.tuned())
