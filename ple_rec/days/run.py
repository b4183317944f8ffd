"""The steps of a day: dataset, run, progressive validation, gate, version. `run_day` does what is still to do.

Each step is a verb and can be stopped at any moment; the same call goes on. A dataset or a version appears complete or
not at all, and a run goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal

from data_prep.inputs.raw_form import build_raw_form
from data_prep.inputs.side_tables import read_side_table
from data_prep.progress import stderr_progress
from data_prep.run import Options as PrepOptions
from data_prep.run import prepare, recipe_names
from ple_rec.analysis.finished import load_finished_run
from ple_rec.config.choices import recipe_names as run_recipe_names
from ple_rec.config.daily import DailyConfig
from ple_rec.config.load import load_config, load_schema, with_values
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import STATS_FILE, SUCCESS_FILE, DatasetSchema
from ple_rec.days.chain import FIRST, Chain, PreparedDay, choose_day, hold_chain
from ple_rec.days.day_run import check_run, made_version, started_from
from ple_rec.days.gate import check_margins, judge, unjudged_notes
from ple_rec.days.record import DayRecord, write_record
from ple_rec.days.removal import remove_old_days
from ple_rec.days.served import (
    Version,
    find_served_day,
    is_complete,
    read_served,
    read_version,
    version_bytes,
)
from ple_rec.days.validation import compare_versions
from ple_rec.errors import DeltaTooLargeError, Option, UserError
from ple_rec.inference.delta import version_chain
from ple_rec.inference.export import ExportedVersion, export
from ple_rec.inference.export_options import ExportOptions
from ple_rec.inference.fusion_lookup import RUN_FUSION_FILE
from ple_rec.inference.held_out import RawHeldOutRows
from ple_rec.inference.load_version import load_ranker
from ple_rec.inference.model_dir import VERSIONS, check_model_dir, latest_version, next_version_name
from ple_rec.inference.publish import LATEST
from ple_rec.inference.ranker import Ranker
from ple_rec.storage import Location, location, write_text
from ple_rec.training.trained import single_process_config

logger = logging.getLogger(__name__)

# Function that trains or resumes a run, from its configuration, directory, and run and checkpoint to start from.
Train = Callable[[RunConfig, Location, tuple[Location, str] | None], None]


@dataclass(frozen=True)
class DayOptions:
    """Options of a day.

    Args:
        config: Configuration of the chain.
        config_folder: Folder to which the paths of prep.config and train.config are relative.
        day: Day to work on; None for the open one, or else the next one.
        new_chain: True if the first version of a chain may replace a served version of another chain.
    """

    config: DailyConfig
    config_folder: Path
    day: date | None = None
    new_chain: bool = False


class _Refused(Exception):
    """The gate has refused the candidate; nothing is published."""


def run_day(options: DayOptions, train: Train) -> DayRecord:
    """Do the steps of a day that are still to do, and return its record.

    Args:
        options: Options of the day.
        train: Function that trains or resumes a run.

    Raises:
        PleRecError: A step was refused or has failed; what was served stays served.
    """
    config = options.config
    model_dir = location(config.model)
    check_model_dir(model_dir)
    with hold_chain(location(config.folder)):
        return _Day(options, Chain(location(config.folder)), model_dir, train).work()


class _Day:
    """A day in work."""

    def __init__(self, options: DayOptions, chain: Chain, model_dir: Location, train: Train) -> None:
        self._options, self._config, self._train = options, options.config, train
        self._chain, self._model_dir = chain, model_dir
        missing = {date.fromisoformat(day) for day in self._config.missing_days}
        self._name = choose_day(chain, options.day, missing)
        self._dataset, self._run = chain.dataset(self._name), chain.run(self._name)
        self._seconds: dict[str, float] = {}
        self._notes: list[str] = []

    def work(self) -> DayRecord:
        """Do the steps of the day, and return its record."""
        record = self._chain.record(self._name)
        if record is not None and self._is_settled(record):
            logger.info(f"{record.day}: {record.verdict} before; nothing is left to do")
            return self._with_served_version(record)
        served = read_served(self._model_dir)
        served_day = None if served is None else self._chain.find(served.dataset)
        if served_day is not None and served_day.name != self._name:
            self._check_served_day(served_day)
        if (published := self._published_before(record, served, served_day)) is not None:
            return published
        start = self._start(served)
        run_config = self._run_config()
        with self._step("prepare"):
            self._prepare()
        tasks = load_schema(self._dataset).tasks
        check_margins(self._config.gate, {task.name: task.kind for task in tasks})
        check_run(self._run, run_config, start)
        with self._step("train"):
            self._train(run_config, self._run, start)
        return self._publish(served)

    def _is_settled(self, record: DayRecord) -> bool:
        """Return True if the day is not worked on again. After a refusal, the newest day is: it is judged once more."""
        newest = self._chain.days[-1].name if self._chain.days else None
        return record.verdict == "published" or (record.verdict == "refused" and newest != self._name)

    def _with_served_version(self, record: DayRecord) -> DayRecord:
        """Return the record of an earlier call. A note is added if `latest` names another version by now."""
        latest = latest_version(self._model_dir).name
        if record.version is None or location(record.version).name == latest:
            return record
        return replace(record, notes=(*record.notes, f"{self._model_dir / LATEST} names {latest} now"))

    def _check_served_day(self, served_day: PreparedDay) -> None:
        """Refuse a day before the served one, and note each open day between the two: it stays without a version.

        Args:
            served_day: Day of the served version, another one than this day.

        Raises:
            UserError: A later day is served.
        """
        before = self._chain.days_before(self._name)
        if served_day not in before:
            raise UserError(
                f"{Option.DAY} {self._name}",
                f"{self._model_dir / LATEST} names a version of {served_day.name}",
                "a later day is served already, and a day is trained from the version of a day before it",
                f"leave {Option.DAY} out; the later days go on without this one",
            )
        for each in before:
            if each.day > served_day.day and self._chain.is_open(each.name):
                self._note(f"{each.name} is not finished, so its rows are in no run; {self._name} goes on without it")

    def _published_before(
        self, record: DayRecord | None, served: Version | None, served_day: PreparedDay | None
    ) -> DayRecord | None:
        """Finish the publication if the version of the day is complete, and return the record; None if it is not.

        Args:
            record: Record of the day; None if it has none.
            served: Version that is served; None if there is none.
            served_day: Day of that version; None if it is not of this chain.

        Raises:
            UserError: The served version is of this day, but not of the run that lies there.
        """
        if record is not None and record.verdict == "accepted" and record.version is not None:
            # A call was stopped between the gate and the end of the publication.
            path = location(record.version)
            if is_complete(path) and self._is_of_run(version := read_version(path)):
                write_text(self._model_dir / LATEST, path.name)
                return self._finish(record, version)
        if served is None or served_day is None or served_day.name != self._name:
            return None
        if record is None and self._is_of_run(served):
            self._note("the record was missing; the differences to the version before are not known")
            return self._finish(replace(self._new_record(None), notes=tuple(self._notes)), served)
        raise UserError(
            str(self._model_dir / LATEST),
            f"names {served.path.name}, a version of this day",
            "a day is trained from the version of a day before it, and compared with it",
            f"let {LATEST} name an older version first",
        )

    def _is_of_run(self, version: Version) -> bool:
        """Return True if a version was exported from the run of the day."""
        return made_version(self._run, self._chain.read_day(self._name).fingerprint, version)

    def _start(self, served: Version | None) -> tuple[Location, str] | None:
        """Return the run and the checkpoint from which the day's run starts; None for random weights.

        Raises:
            UserError: The served version is of another chain, or its run is gone.
        """
        before = self._chain.before(self._name)
        if before is not None:
            day, served = find_served_day(self._chain, served, before, self._model_dir)
            return self._chain.run(day.name), served.checkpoint
        if served is None or self._options.new_chain:
            return None
        raise UserError(
            str(served.path),
            f"is served; it was trained on dataset {served.dataset[:12]}",
            f"the first version of {self._chain.folder} would replace the model of another chain",
            f"give the chain a model of its own, or allow it by {Option.NEW_CHAIN}",
        )

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Time a step, and say when it begins and ends."""
        logger.info(f"{self._name}: {name}")
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = round(time.monotonic() - began, 2)

    def _prepare(self) -> None:
        """Prepare the dataset of the day, unless it is complete."""
        if (self._dataset / SUCCESS_FILE).is_file():
            logger.info(f"{self._dataset}: prepared already; remove it to prepare the day again")
            return
        step, before = self._config.prep, self._chain.before(self._name)
        overrides = step.overrides
        if before is not None:
            overrides += tuple(text.replace("{day}", self._name) for text in step.day_overrides)
        options = PrepOptions(
            source=step.source,
            threads=step.threads,
            append=None if before is None else self._name,
            parent=None if before is None else self._chain.dataset(before.name),
            overrides=overrides,
        )
        recipe = self._config_path(step.config, recipe_names())
        summary = prepare(recipe, self._dataset, options, progress=stderr_progress())
        logger.info(str(summary))
        self._chain = Chain(self._chain.folder)

    def _config_path(self, text: str, recipes: Sequence[str]) -> str:
        """Return the name of a recipe unchanged, and else the path of a file, relative to that of `daily.toml`."""
        return text if text in recipes else str(self._options.config_folder / text)

    def _run_config(self) -> RunConfig:
        """Return the configuration of the day's run."""
        step = self._config.train
        overrides = [*step.overrides, *(() if self._name == FIRST else step.day_overrides)]
        source = self._config_path(step.config, run_recipe_names())
        config = load_config(RunConfig, source, overrides, overrides_name="train.overrides")
        return with_values(config, {"data.path": str(self._dataset)})

    def _new_record(self, served: Version | None) -> DayRecord:
        """Return the record of the day before it is judged.

        Args:
            served: Version with which the candidate is compared; None if there is none.
        """
        schema = load_schema(self._dataset)
        return DayRecord(
            day=self._chain.read_day(self._name).day.isoformat(),
            name=self._name,
            verdict="accepted",
            reasons=(),
            dataset=str(self._dataset),
            run=str(self._run),
            started_from=started_from(self._run),
            rows={split: info.rows for split, info in schema.splits.items()},
            tables=_values_with_rows(self._dataset, schema),
            compared_with=None if served is None else served.path.name,
            differences=(),
            version=None,
            form=None,
            bytes=None,
            seconds=self._seconds,
        )

    def _publish(self, served: Version | None) -> DayRecord:
        """Export the run, compare it with the served version, and publish it unless the gate refuses it."""
        config, metrics = load_finished_run(self._run)
        config = single_process_config(config, metrics)
        file = self._chain.record_file(self._name)
        # The record names the version before it is written, so that a repeated call knows which one to look for.
        version_name = next_version_name(self._model_dir)
        judged = self._new_record(served)

        def accept(candidate: Ranker, raw: RawHeldOutRows) -> None:
            nonlocal judged
            if served is not None:
                logger.info(f"comparing {served.path.name} and the candidate on {len(raw.rows):,} held-out rows")
                differences = compare_versions(load_ranker(served.path), candidate, raw)
                judged_differences, reasons = judge(differences, self._config.gate)
                for note in unjudged_notes(judged_differences, self._config.gate):
                    self._note(note)
                judged = replace(judged, differences=judged_differences, reasons=reasons, notes=tuple(self._notes))
                if reasons:
                    raise _Refused
            judged = replace(judged, notes=tuple(self._notes), version=str(self._model_dir / VERSIONS / version_name))
            write_record(file, judged)

        def write(form: Literal["whole", "delta"]) -> ExportedVersion:
            return export(
                config,
                metrics,
                self._run,
                self._model_dir,
                replace(self._export_options(served, form), version=version_name),
                build_raw_form,
                read_side_table,
                accept,
            )

        form = self._form(served)
        try:
            with self._step("export"):
                try:
                    exported = write(form)
                except DeltaTooLargeError as error:
                    form = "whole"
                    self._note(f"a whole version, since {error.value}")
                    exported = write(form)
        except _Refused:
            refused = replace(judged, verdict="refused", seconds=self._seconds)
            write_record(file, refused)
            return refused
        return self._finish(judged, read_version(exported.version))

    def _form(self, served: Version | None) -> Literal["whole", "delta"]:
        """Return the form of the next version; the first one of a chain is whole."""
        step = self._config.export
        if step.form == "whole" or served is None or self._name == FIRST:
            return "whole"
        if served.precision != step.precision:
            self._note(f"a whole version, since {served.path.name} is in {served.precision}, not in {step.precision}")
            return "whole"
        deltas = len(version_chain(served.path)) - 1
        if step.whole_every is not None and deltas + 1 >= step.whole_every:
            every = f"whole_every = {step.whole_every}"
            self._note(f"a whole version, since {every} and {deltas} delta(s) follow the last one")
            return "whole"
        return "delta"

    def _note(self, text: str) -> None:
        """Say something about a choice, and write it to the record."""
        logger.info(text)
        self._notes.append(text)

    def _export_options(self, served: Version | None, form: Literal["whole", "delta"]) -> ExportOptions:
        """Return the options of the export; a run without a fusion of its own gets that of the served version."""
        step = self._config.export
        fusion = None if step.fusion is None else location(step.fusion)
        if fusion is None and served is not None and not (self._run / RUN_FUSION_FILE).is_file():
            fusion = served.fusion
        return ExportOptions(
            precision=step.precision,
            dense=step.dense,
            fusion=fusion,
            user_features=step.user_features,
            licence=step.licence,
            check_rows=self._config.gate.rows,
            tolerance=step.tolerance,
            auc_loss=step.auc_loss,
            examples=step.examples,
            tables=step.tables,
            source=self._config.prep.source if step.tables else None,
            delta=None if form == "whole" or served is None else served.path.name,
            delta_share=step.delta_share,
        )

    def _finish(self, record: DayRecord, version: Version) -> DayRecord:
        """Write the record of a published day, and remove what the chain no longer needs."""
        published = record.published(str(version.path), version.form, version_bytes(version.path), dict(self._seconds))
        write_record(self._chain.record_file(self._name), published)
        remove_old_days(self._chain, version.dataset, self._config.keep)
        return published


def _values_with_rows(dataset: Location, schema: DatasetSchema) -> dict[str, int]:
    """Return the number of values that have a row, by table. Rows whose values have expired do not count."""
    changing = json.loads((dataset / STATS_FILE).read_text(encoding="utf-8")).get("table_rows", {})
    return {table.name: changing.get(table.name, {}).get("in_use", table.rows - 1) for table in schema.tables}
