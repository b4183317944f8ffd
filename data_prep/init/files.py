"""Write the two files of `ple-rec init`, prep.toml and train.toml, and check that `ple-rec prep` would accept them.

Every guess is a line of prep.toml with a comment `guess:` and its reason. Columns without a guess are comments `ask:`.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TypeGuard

import pyarrow.compute as pc

from data_prep.dry_run import estimate_distinct_values, refusal_reasons_of_log
from data_prep.init.log import LogPreview
from data_prep.init.rates import Rate, guess_rates
from data_prep.init.roles import MANY_VALUES, Feature, Label, Roles, toml_text
from data_prep.init.split_expression import SHARE, split_expression
from data_prep.init.times import Time
from data_prep.run import read_recipe
from data_prep.transforms.resolve import resolve
from ple_rec.config.prep import MAX_ROWS, AppendConfig
from ple_rec.errors import PleRecError, UserError


def find_problem(file: Path, log: LogPreview) -> str:
    """Return why `ple-rec prep` would refuse a log by what its sample shows; empty if it would accept the sample.

    Args:
        file: Configuration of the preparation, prep.toml.
        log: Log with the sample.
    """
    try:
        config, place, _ = read_recipe(str(file.absolute()))
        resolved = resolve(config, place)
        resolved.check_columns(log.table_sample.table)
        with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder:
            refusals = refusal_reasons_of_log(resolved, {"log": log.table_sample}, Path(folder) / "dataset")
    except PleRecError as error:
        return str(error)
    return "; ".join(" ".join(line.split()) for line in refusals)


PREP_FILE, TRAIN_FILE = "prep.toml", "train.toml"
_APPEND = AppendConfig()  # Default values of the section [append].
_HEADROOM = 1.5  # Rows of a table per expected value; the table of a trained model gets no further rows.
SLOW_COLUMNS = 2_000  # With this many columns a preparation takes a minute, even of few rows, to compile its query.
_MAX_EMPTY_DAYS = 31  # A log with more days without rows, between the first and the last day, is not split by day.
_MIN_DAYS = 3  # Train, valid and test need a day each.
_MIN_DAYS_OF_RATES = 4  # With two days of train, rows of the second one have rates.
_MIN_DAYS_OF_WINDOW = 15  # With fewer days, rates see all earlier days, since a window would leave out much of the log.
_SMALL_LOG_ROWS, _LARGE_LOG_ROWS = 50_000, 1_000_000  # The batch size grows at each of these numbers of rows.


def check_absent(folder: Path) -> None:
    """Refuse a folder that already has prep.toml or train.toml.

    Raises:
        UserError: One of the files exists.
    """
    for file in (folder / PREP_FILE, folder / TRAIN_FILE):
        if file.exists():
            raise UserError(str(file), "exists", "init overwrites no file", "give another DIR, or move the file away")


def count_text(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 column" or "2 columns"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def write_files(folder: Path, log: LogPreview, roles: Roles) -> Path:
    """Write prep.toml and train.toml, and return the dataset directory that train.toml names.

    Args:
        folder: Folder of the files; it is created. Its name becomes the name of the dataset.
        log: Sample of the log.
        roles: Guessed roles of its columns.

    Raises:
        UserError: One of the files exists, the folder cannot be written, or the log has neither enough days nor a
            column by which its rows can be split.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name).lstrip("._-") or "log"
    dataset = _free_path(name, folder, Path(log.source))
    check_absent(folder)
    texts = {PREP_FILE: _prep_lines(name, log, roles), TRAIN_FILE: _train_lines(name, dataset, log, roles)}
    lines = {file: [*text] for file, text in texts.items()}  # A log may be refused here, before anything is created.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in lines.items():
            (folder / file).write_text("\n".join(text) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            str(folder), f"cannot be written ({error.strerror})", "init writes two files into it", "name another folder"
        ) from None
    return dataset


def _free_path(name: str, folder: Path, source: Path) -> Path:
    """Return a path for the dataset: data/NAME, or data/NAME-dataset if data/NAME is taken.

    A path is taken if it exists, or is the folder of the two files or the log itself.
    """
    path = Path("data") / name
    apart = path.resolve() not in (folder.resolve(), source.resolve())
    return path if apart and not path.exists() else path.with_name(f"{name}-dataset")


def _prep_lines(name: str, log: LogPreview, roles: Roles) -> Iterator[str]:
    sampled_rows = f"{log.rows.num_rows:,} of about {log.table_sample.rows:,} rows"
    yield f"# Written by `ple-rec init`, which has looked at {sampled_rows}."
    yield "# Lines with `guess:` are guesses by names, types and values: read them, and correct what is wrong."
    if roles.questions:
        yield "# Lines with `ask:` are columns that wait for your decision; no entry below reads them."
    yield "# docs/prep.md explains every section; `ple-rec prep --help-config` lists every key."
    yield f"name = {toml_text(name)}"
    user = roles.user
    if user is not None:
        if roles.time is None:
            yield f"group = {toml_text(user.id_expression)}  # guess: rows of one user, for GAUC"
        else:
            yield (
                f'group = [{toml_text(user.id_expression)}, "time.day"]  '
                "# guess: rows of one user, and of a user's day, for GAUC"
            )
    if roles.time is not None and roles.time.must_drop_rows:
        bad = math.ceil(round(200 * (1 - roles.time.share), 6)) / 100  # Twice the share, rounded up to a hundredth.
        yield 'on_bad_row = "drop"  # guess: some times lie before 2000 or after 2099, or are none'
        yield f"max_bad_fraction = {bad}  # guess: twice their share of the rows that were looked at"
    yield ""
    yield "[log]"
    yield f"files = [{', '.join(map(toml_text, log.files))}]  # relative to --from"
    if log.format is not None:
        yield f"format = {toml_text(log.format)}"
    conditions = [f"{user.id_expression} is not null"] if user is not None and user.nulls else []
    conditions += [roles.time.row_condition] if roles.time is not None and roles.time.row_condition else []
    if conditions:
        yield f"where = {toml_text(' and '.join(conditions))}  # guess: other rows are of no use"
    yield from _csv_lines(log)
    if roles.time is not None:
        yield from _time_lines(roles.time, log.utc_offset(roles.time.column.name))
    days = None if roles.time is None else log.days_with_rows(roles.time)
    yield from _split_lines(log, roles, days)
    can_append = _can_split_by_day(days) and user is not None  # `--append` refuses any other dataset.
    if can_append:
        yield from ("", "[append]")
        yield f"valid = {_APPEND.valid}  # guess: of a day that --append adds, this share of the groups is valid"
        yield f"test = {_APPEND.test}  # guess: this share is test; the others train"
    yield from _table_lines(log, roles, can_append)
    for feature in roles.features:
        yield from _feature_lines(feature)
    if _can_split_by_day(days):
        yield from _rate_lines(guess_rates(roles, log.table_sample.rows), len(days))
    for label in roles.labels:
        yield from _task_lines(label)
    if roles.questions:
        yield from ("", "# Columns that wait for your decision:")
        yield from (
            f"#   {printable(column)}  ask: {printable(question)}" for column, question in roles.questions.items()
        )
    if roles.left_out:
        yield from ("", "# Columns that are left out:")
        yield from (f"#   {printable(column)}  guess: {printable(why)}" for column, why in roles.left_out.items())


def printable(text: str) -> str:
    """Return a text as one line of printable characters, for a comment in TOML."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _csv_lines(log: LogPreview) -> Iterator[str]:
    if log.csv is None or (log.csv.delimiter == "," and log.csv.nulls == ("",)):
        return
    yield from ("", "[log.csv]")
    if log.csv.delimiter != ",":
        yield f"delimiter = {toml_text(log.csv.delimiter)}  # guess: the first line has most of these"
    if log.csv.nulls != ("",):
        yield f"nulls = [{', '.join(map(toml_text, log.csv.nulls))}]  # guess: cells that stand for a missing value"


def _time_lines(time: Time, offset: str) -> Iterator[str]:
    yield from ("", "[time]")
    yield f"value = {toml_text(time.value)}  # guess: {time.why}"
    yield f"unit = {toml_text(time.unit)}"
    if time.unit != "date":
        why = 'days are cut at midnight UTC; local time is better, e.g. "+08:00"'
        yield f'utc_offset = "{offset}"  # guess: {why if offset == "+00:00" else "the files name it"}'


def _split_lines(log: LogPreview, roles: Roles, days: Sequence[date] | None) -> Iterator[str]:
    """Yield the lines of the section [split].

    Args:
        log: Sample of the log.
        roles: Guessed roles of its columns.
        days: Days that have a row; None if they are unknown.
    """
    yield from ("", "[split]")
    if _can_split_by_day(days):
        *train, valid, test = days
        yield 'by = "day"  # guess: the last day is test, the day before is valid; a random split leaks the future'
        for split, first, last in (("train", train[0], train[-1]), ("valid", valid, valid), ("test", test, test)):
            yield f'{split} = ["{first}", "{last}"]'
        if empty := _days_without_rows(days):
            yield f"empty_days = [{', '.join(toml_text(str(day)) for day in empty)}]  # guess: they have no row"
        return
    expression = split_expression(log.rows, roles)
    why = 'by = "day" is better if there is a time' if roles.time is None else _hash_split_reason(days)
    yield f'by = "hash"  # guess: {why}'
    yield f"value = {toml_text(expression.value)}  # guess: {expression.why}"
    if expression.seed:
        yield f"seed = {expression.seed}  # guess: the first by which no split is empty"
    yield from (f"valid = {SHARE}", f"test = {SHARE}")


def _can_split_by_day(days: Sequence[date] | None) -> TypeGuard[Sequence[date]]:
    """Return whether a log can be split by day: at least three days have rows, and few days between them have none.

    False also if the days are unknown (None).
    """
    return days is not None and len(days) >= _MIN_DAYS and len(_days_without_rows(days)) <= _MAX_EMPTY_DAYS


def _table_lines(log: LogPreview, roles: Roles, can_append: bool) -> Iterator[str]:
    """Yield the lines of the sections [tables.NAME].

    Args:
        log: Sample of the log.
        roles: Guessed roles of its columns.
        can_append: True if days can be appended, so that tables need rows for new values.
    """
    scale = max(log.table_sample.rows / log.rows.num_rows, 1.0)
    for table, values in roles.vocabularies.items():
        counts = pc.value_counts(values).field("counts")
        singletons = pc.sum(pc.equal(counts, 1)).as_py() or 0
        expected = estimate_distinct_values(len(counts), singletons, scale)
        if len(counts) < MANY_VALUES and not can_append:
            continue
        yield from ("", f"[tables.{table}]")
        if len(counts) >= MANY_VALUES:
            yield "min_count = 2  # guess: values seen once in train share a row with the unseen"
        if can_append:
            estimate = "" if scale == 1 else f" expected from {log.rows.num_rows:,} rows"
            why = f"{_HEADROOM} times the {expected:,} values{estimate}, to leave rows for new values of later days"
            yield f"capacity = {min(1 + math.ceil(_HEADROOM * expected), MAX_ROWS)}  # guess: {why}"


def _hash_split_reason(days: Sequence[date] | None) -> str:
    """Return why a log that has times is split by a hash, not by day."""
    if days is None:
        return 'the CSV files are long, so that days were not counted; by = "day" is better, as docs/prep.md shows'
    with_rows = count_text(len(days), "day")
    if len(days) < _MIN_DAYS:
        return f"{with_rows} with rows: too few for a split by day"
    return (
        f"{with_rows} with rows, {len(_days_without_rows(days)):,} between them without: too many gaps for a split "
        "by day"
    )


def _days_without_rows(days: Sequence[date]) -> list[date]:
    """Return the days without a row between the first and the last."""
    present, span = set(days), (days[-1] - days[0]).days
    return [day for day in (days[0] + timedelta(days=i) for i in range(span)) if day not in present]


def _feature_lines(feature: Feature) -> Iterator[str]:
    yield from ("", "[[dense]]" if feature.is_dense else "[[sparse]]")
    yield f"name = {toml_text(feature.name)}  # guess: {feature.why}"
    yield from (f"{key} = {value}" for key, value in feature.keys.items())


def _rate_lines(rates: Sequence[Rate], days: int) -> Iterator[str]:
    """Yield the lines of the proposed rates.

    Args:
        rates: Proposed rates.
        days: Number of days with rows.
    """
    if not rates:
        return
    if days < _MIN_DAYS_OF_RATES:
        yield from ("", "# guess: no [[rates]], since train has one day, whose rows see no earlier day")
        return
    yield ""
    yield "# Rates over earlier days, which often tell more than any other feature. A row sees no row of its own day."
    yield '# If an outcome is known a day later or more, set delay, e.g. to "1d". Each rate also gives its count.'
    window = ("all", "all earlier days, since the log is short") if days < _MIN_DAYS_OF_WINDOW else ("7d", "a week")
    for rate in rates:
        yield from ("", "[[rates]]")
        yield f"name = {toml_text(rate.name)}  # guess: {rate.why}"
        yield f"key = [{toml_text(rate.key)}]"
        yield f"of = {toml_text(rate.of)}"
        if rate.unit is not None:
            yield f"unit = {rate.unit:g}  # guess: values are added in this unit, about 1/1000 of a standard deviation"
        yield f'window = "{window[0]}"  # guess: {window[1]}'


def _task_lines(label: Label) -> Iterator[str]:
    yield from ("", "[[tasks]]")
    yield f"name = {toml_text(label.column.feature)}  # guess: {label.why}"
    yield f"kind = {toml_text(label.kind)}"
    yield f"label = {toml_text(label.value)}"
    if label.column.nulls or label.column.has_non_finite:
        # The key `space` is the condition of the rows that have the label.
        space = (
            label.column.finite_condition if label.column.has_non_finite else f"{label.column.expression} is not null"
        )
        yield f"space = {toml_text(space)}  # guess: other rows have no label"


def _train_lines(name: str, dataset: Path, log: LogPreview, roles: Roles) -> Iterator[str]:
    has_several_tasks = len(roles.labels) > 1
    rows = log.table_sample.rows
    batch = 128 if rows < _SMALL_LOG_ROWS else 512 if rows < _LARGE_LOG_ROWS else 4096
    yield f"# Written by `ple-rec init`: {'a small PLE' if has_several_tasks else 'a model of one task'} to begin with."
    yield "# docs/models.md has the others; `ple-rec train --help-config` lists every key."
    yield f"name = {toml_text(name)}"
    yield from ("", "[data]", f"path = {toml_text(str(dataset))}")
    yield from ("", "[embeddings]", "dim = 8  # guess: more for a log of many millions of rows")
    if any("bag" in feature.keys for feature in roles.features):
        yield 'pooling = "mean"  # of bags'
    yield from ("", "[model]", f'variant = "{"ple" if has_several_tasks else "single_task"}"')
    if has_several_tasks:
        for width in (64, 32):
            yield from ("", "[[model.levels]]", "task_experts = 1", "shared_experts = 1", f"expert_hidden = [{width}]")
    else:
        yield "bottom = [64, 32]"
    yield from ("", "[model.tower]", "hidden = [16]")
    yield from ("", "[dense_optimizer]", "learning_rate = 0.005", "", "[table_optimizer]", "learning_rate = 0.02")
    yield from ("", "[train]", f"batch_size = {batch}  # guess: by the {rows:,} rows of the log", "epochs = 2")
