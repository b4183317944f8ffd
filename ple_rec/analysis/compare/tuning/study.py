"""A study of one variant: its trials, their files, and which setting is the best.

    {"format": 1, "metric", "seed", "space": {key: range}, "best": number | null,
     "trials": [{"number", "values": {key: value}, "state": "waiting" | "failed" | "finished", <metric>: value | null}]}

`<root>/<variant>/tune/trial-<n>` is a trial's run directory without its checkpoints, with `trial-<n>.toml`, `.log` and
`.failed` beside it as a run of a seed has them. `<root>/<variant>/tune.json` holds the space and the values of every
trial, written before it starts; whether it has ended is read from the directories, so that nothing that has finished is
lost, whenever the program was stopped, and a study needs no database.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.matrix import Variant
from ple_rec.analysis.compare.runs import Run
from ple_rec.analysis.compare.tuning.sampler import Result, Space, ask, batch_of, changed, settings_of
from ple_rec.analysis.compare.workers import Outcome
from ple_rec.analysis.series import FAILED, inspect_run
from ple_rec.config.load import with_values
from ple_rec.config.metrics import is_higher_better
from ple_rec.config.run import RunConfig
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import CHECKPOINTS, write_json, write_text, writing
from ple_rec.runs.results import mapping, number

FILE = "tune.json"
_FORMAT = 1


def space_record(space: Space) -> dict[str, Any]:
    """A space as JSON has it."""
    return {d.key: d.given.model_dump(mode="json", exclude_none=True) for d in space}


def read_values(folder: Path, space: Space) -> list[dict[str, Any]]:
    """What trials were to try, by number; none where there is no record, or a damaged one.

    Without a record the values are asked anew, and are the same.

    Raises:
        UserError: they are of another space.
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
    """Write it whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    record = {"format": _FORMAT, "metric": metric, "seed": seed, "space": space_record(space)}
    write_json(folder / FILE, record | {"trials": trials, "best": best})


FOLDER = "tune"
_OF_TRIALS = {  # what they need not keep, tell or read
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
    """The trials of a variant.

    Args:
        variant: Variant as it is written, its cost made equal.
        space: Space of the trials.
        trials: Number of trials that there are to be.
        seed: Seed that all of them are trained with.
        dataset: Fingerprint of the dataset.
        folder: Folder of the variant.
        settings: Values of the trials, by number; more than `trials` where there were to be more once.
        outcomes: Outcome of each trial that has ended, by number.
        submissions: Numbers of the trials that `next_runs` has returned.
    """

    variant: Variant
    space: Space
    trials: int
    seed: int
    dataset: str
    folder: Path
    settings: list[dict[str, Any]] = field(default_factory=list)
    outcomes: dict[int, Result] = field(default_factory=dict)
    submissions: set[int] = field(default_factory=set)

    @property
    def metric(self) -> str:
        """By which trials are judged: the one that chooses the best checkpoint of a run."""
        return self.variant.config.train.best_metric

    @property
    def left(self) -> int:
        """Trials that have not ended."""
        return self.trials - sum(number < self.trials for number in self.outcomes)

    @property
    def later(self) -> int:
        """Number of trials that have neither begun nor ended."""
        return sum(number not in self.outcomes and number not in self.submissions for number in range(self.trials))

    @property
    def results(self) -> list[Result | None]:
        """Of every trial by number; None of those that have not ended."""
        return [self.outcomes.get(number) for number in range(self.trials)]

    @property
    def best(self) -> int | None:
        """The number of the best trial, the first of equals; None where none has finished."""
        scores = {n: found.score for n, found in enumerate(self.results) if found and found.score is not None}
        return max(scores, key=lambda n: (scores[n], -n), default=None)

    def value(self, number: int) -> float | None:
        """The metric of a trial; None where it failed, or has not ended."""
        found = self.outcomes.get(number)
        return None if found is None or found.score is None else abs(found.score)

    def tuned(self) -> dict[str, Any]:
        """The values of the best trial; where all failed, those of the configuration as it is written."""
        return dict(self.settings[self.best or 0])

    def read(self, *, overwrite: bool, remove: bool) -> None:
        """Read what earlier calls have left.

        Args:
            overwrite: Permission to replace trials of another space or configuration.
            remove: Removal of those, and of checkpoints of trials that have ended.

        Raises:
            UserError: there are such trials, and `overwrite` is not given.
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

    def next_runs(self) -> list[tuple[int, Run]]:
        """Return the trials that can begin, by number: those of a batch, once every trial before it has ended.

        Raises:
            UserError: a file cannot be written.
        """
        while waiting := [n for n in range(self.trials) if n not in self.outcomes]:
            batch = batch_of(waiting[0])
            numbers = [n for n in batch if n < self.trials]
            if (known := len(self.settings)) <= numbers[-1]:  # what was drawn once stays as it was
                self.settings += self._ask(batch.start, len(numbers))[known - batch.start :]
                for n in numbers:  # which are there where `tune.json` is not
                    self._look(n)
                self.write()
            if left := [n for n in numbers if n not in self.outcomes]:
                ready = [n for n in left if n not in self.submissions]
                self.submissions.update(ready)
                return [(n, self.run(n)) for n in ready]
        return []

    def run(self, number: int) -> Run:
        """A trial as a run."""
        config = changed(self.variant.name, self.variant.config, self.settings[number])
        config = with_values(config, {**_OF_TRIALS, "seed": self.seed})
        return Run(self.variant.name, self.seed, config, self._directory(number))

    def end(self, number: int, outcome: Outcome) -> None:
        """Note what came of a trial.

        Raises:
            UserError: a file cannot be written.
        """
        self._look(number)  # whatever the outcome, as a process may be killed after it has written the results
        if number not in self.outcomes:
            why = outcome.message or f"{self.metric} was never evaluated"
            write_text(self.run(number).beside(FAILED), why + "\n")
            self.outcomes[number] = Result(self.settings[number], None)
        self._drop_checkpoints()
        self.write()

    def write(self) -> None:
        """Write `tune.json`.

        Raises:
            UserError: so it cannot be.
        """
        trials = [
            {"number": n, "values": values, "state": self._state(n), self.metric: self.value(n)}
            for n, values in enumerate(self.settings)
        ]
        write_record(self.folder, self.metric, self.seed, self.space, trials, self.best)

    def failed(self, number: int) -> str:
        """Why a trial failed; empty where it did not."""
        file = self.run(number).beside(FAILED)
        return file.read_text().strip() if file.is_file() else ""

    def _ask(self, first: int, count: int) -> list[dict[str, Any]]:
        earlier = [self.outcomes[n] for n in range(first)]
        if first:
            return ask(self.space, first, count, earlier)
        return [self._written(), *ask(self.space, first, count - 1, earlier)]

    def _written(self) -> dict[str, Any]:
        """What the configuration has at the keys of the space."""
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
            self._look(n)

    def _look(self, n: int) -> None:
        """Whether a trial has ended, and how."""
        run = self.run(n)
        state = inspect_run(run.directory, run.config, self.dataset)
        state.refuse_foreign()
        if state.kind == "finished" and (value := number(state.metrics.get("best_value"))) is not None:
            self.outcomes[n] = Result(self.settings[n], value if is_higher_better(self.metric) else -value)
        elif state.kind == "failed":
            self.outcomes[n] = Result(self.settings[n], None)

    def _drop_checkpoints(self) -> None:
        """Of trials that have finished: nothing goes on from them."""
        for n, result in self.outcomes.items():
            if result.score is not None:
                shutil.rmtree(self._directory(n) / CHECKPOINTS, ignore_errors=True)

    def _directory(self, n: int) -> Path:
        return self.folder / FOLDER / f"trial-{n}"

    def _state(self, n: int) -> str:
        found = self.outcomes.get(n)
        return "waiting" if found is None else "failed" if found.score is None else "finished"


def tuned_config(study: Study) -> RunConfig:
    """The variant's configuration with the values of its best trial."""
    return changed(study.variant.name, study.variant.config, study.tuned())
