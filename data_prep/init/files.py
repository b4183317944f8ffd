"""The two TOML files of `ple-rec init`, and a check that prep accepts them."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TypeGuard

import pyarrow.compute as pc

from data_prep.dry_run import bad_rows_of, expected_values
from data_prep.init.log import LogPreview
from data_prep.init.roles import MANY, Feature, Label, Roles, quoted
from data_prep.init.split_expression import SHARE, split_expression
from data_prep.init.times import Time
from data_prep.run import read_recipe
from data_prep.transforms.resolve import resolve
from ple_rec.config.prep import MAX_ROWS, AppendConfig
from ple_rec.errors import PleRecError, UserError


def problem_of(file: Path, log: LogPreview) -> str:
    """Return why prep refuses a file for a sample of its log; empty if it does not.

    Args:
        file: Configuration of a preparation.
        log: Sample of the log that it prepares.
    """
    try:
        config, place, _ = read_recipe(str(file.absolute()))
        resolved = resolve(config, place)
        resolved.check_columns(log.sampled.table)
        with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder:
            bad = bad_rows_of(resolved, {"log": log.sampled}, Path(folder) / "dataset")
    except PleRecError as error:
        return str(error)
    return "; ".join(" ".join(line.split()) for line in bad)


PREP, TRAIN = "prep.toml", "train.toml"
_APPEND = AppendConfig()
_HEADROOM = 1.5  # Rows for each value of the log; a table of a trained model does not grow beyond its capacity.
SLOW_COLUMNS = 2_000  # A preparation of so many columns takes about a minute, however few its rows: each is compiled.
_MAX_EMPTY_DAYS = 31
_MIN_DAYS = 3  # Train, valid and test need a day each.
_SMALL, _LARGE = 50_000, 1_000_000  # Rows of a log from which on the batch is larger.


def check_absent(folder: Path) -> None:
    """Refuse a folder that has one of the files.

    Raises:
        UserError: One of the files exists.
    """
    for file in (folder / PREP, folder / TRAIN):
        if file.exists():
            raise UserError(str(file), "is there", "nothing is overwritten", "give another DIR, or move it away")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 column, 2 columns."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def write_files(folder: Path, log: LogPreview, roles: Roles) -> Path:
    """Write the files and return the dataset directory that they name.

    Args:
        folder: Folder of the files. It is created, and its name is the name of the dataset.
        log: Sample of the log.
        roles: Guessed roles of its columns.

    Raises:
        UserError: One of the files exists, the folder cannot be written, or no column tells the rows of the log apart.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name).lstrip("._-") or "log"
    dataset = _free_path(name, folder, Path(log.source))
    check_absent(folder)
    texts = {PREP: _prep(name, log, roles), TRAIN: _train(name, dataset, log, roles)}
    lines = {file: [*text] for file, text in texts.items()}  # It may refuse the log, so the folder is created later.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in lines.items():
            (folder / file).write_text("\n".join(text) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            str(folder), f"cannot be written ({error.strerror})", "two files go there", "name another"
        ) from None
    return dataset


def _free_path(name: str, folder: Path, source: Path) -> Path:
    """Return a path for a dataset that does not exist, and is neither the folder of `init` nor the log."""
    path = Path("data") / name
    apart = path.resolve() not in (folder.resolve(), source.resolve())
    return path if apart and not path.exists() else path.with_name(f"{name}-dataset")


def _prep(name: str, log: LogPreview, roles: Roles) -> Iterator[str]:
    whole = f"{log.rows.num_rows:,} of about {log.sampled.rows:,} rows"
    yield f"# Written by `ple-rec init`, which has looked at {whole}."
    yield "# Lines with `guess:` are guesses by names, types and values: read them, and correct what is wrong."
    if roles.questions:
        yield "# Lines with `ask:` are columns that wait for your decision; no entry below reads them."
    yield "# docs/prep.md explains every section; `ple-rec prep --help-config` lists every key."
    yield f"name = {quoted(name)}"
    user = roles.user
    if user is not None:
        yield f"group = {quoted(user.id_expression)}  # guess: rows of one user, for GAUC"
    if roles.time is not None and roles.time.drops:
        bad = math.ceil(round(200 * (1 - roles.time.share), 6)) / 100
        yield 'on_bad_row = "drop"  # guess: some times lie before 2000 or after 2099, or are none'
        yield f"max_bad_fraction = {bad}  # guess: twice their share of the rows that were looked at"
    yield ""
    yield "[log]"
    yield f"files = [{', '.join(map(quoted, log.files))}]  # relative to --from"
    if log.format is not None:
        yield f"format = {quoted(log.format)}"
    needed = [f"{user.id_expression} is not null"] if user is not None and user.nulls else []
    needed += [roles.time.needed] if roles.time is not None and roles.time.needed else []
    if needed:
        yield f"where = {quoted(' and '.join(needed))}  # guess: other rows are of no use"
    yield from _csv(log)
    if roles.time is not None:
        yield from _time(roles.time, log.offset(roles.time.column.name))
    days = None if roles.time is None else log.days(roles.time)
    yield from _split(log, roles, days)
    grows = _are_enough(days) and user is not None  # `--append` refuses any other dataset.
    if grows:
        yield from ("", "[append]")
        yield f"valid = {_APPEND.valid}  # guess: of a day that --append adds, this share of the groups is valid"
        yield f"test = {_APPEND.test}  # guess: this share is test; the others train"
    yield from _tables(log, roles, grows)
    for feature in roles.features:
        yield from _feature(feature)
    for label in roles.labels:
        yield from _task(label)
    if roles.questions:
        yield from ("", "# Columns that wait for your decision:")
        yield from (
            f"#   {printable(column)}  ask: {printable(question)}" for column, question in roles.questions.items()
        )
    if roles.left_out:
        yield from ("", "# Columns that are left out:")
        yield from (f"#   {printable(column)}  guess: {printable(why)}" for column, why in roles.left_out.items())


def printable(text: str) -> str:
    """Return a text in one line of printable characters, for a comment in TOML."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _csv(log: LogPreview) -> Iterator[str]:
    if log.csv is None or (log.csv.delimiter == "," and log.csv.nulls == ("",)):
        return
    yield from ("", "[log.csv]")
    if log.csv.delimiter != ",":
        yield f"delimiter = {quoted(log.csv.delimiter)}  # guess: the first line has most of these"
    if log.csv.nulls != ("",):
        yield f"nulls = [{', '.join(map(quoted, log.csv.nulls))}]  # guess: cells that stand for a missing value"


def _time(time: Time, offset: str) -> Iterator[str]:
    yield from ("", "[time]")
    yield f"value = {quoted(time.value)}  # guess: {time.why}"
    yield f"unit = {quoted(time.unit)}"
    if time.unit != "date":
        why = 'days are cut at midnight UTC; local time is better, e.g. "+08:00"'
        yield f'utc_offset = "{offset}"  # guess: {why if offset == "+00:00" else "the files name it"}'


def _split(log: LogPreview, roles: Roles, days: Sequence[date] | None) -> Iterator[str]:
    """Yield the section of the split.

    Args:
        log: Sample of the log.
        roles: Guessed roles of its columns.
        days: Days that have a row; None if they are unknown.
    """
    yield from ("", "[split]")
    if _are_enough(days):
        *train, valid, test = days
        yield 'by = "day"  # guess: the last day is test, the day before is valid; a random split leaks the future'
        for split, first, last in (("train", train[0], train[-1]), ("valid", valid, valid), ("test", test, test)):
            yield f'{split} = ["{first}", "{last}"]'
        if empty := _between(days):
            yield f"empty_days = [{', '.join(quoted(str(day)) for day in empty)}]  # guess: they have no row"
        return
    expression = split_expression(log.rows, roles)
    known = 'by = "day" is better if there is a time' if roles.time is None else _no_days(days)
    yield f'by = "hash"  # guess: {known}'
    yield f"value = {quoted(expression.value)}  # guess: {expression.why}"
    if expression.seed:
        yield f"seed = {expression.seed}  # guess: the first by which no split is empty"
    yield from (f"valid = {SHARE}", f"test = {SHARE}")


def _are_enough(days: Sequence[date] | None) -> TypeGuard[Sequence[date]]:
    """Return whether days are known, and so many and so close together that a log can be split by them."""
    return days is not None and len(days) >= _MIN_DAYS and len(_between(days)) <= _MAX_EMPTY_DAYS


def _tables(log: LogPreview, roles: Roles, grows: bool) -> Iterator[str]:
    """Yield the sections of the embedding tables.

    Args:
        log: Sample of the log.
        roles: Guessed roles of its columns.
        grows: True if days can be added, whose new values need rows.
    """
    scale = max(log.sampled.rows / log.rows.num_rows, 1.0)
    for table, values in roles.vocabularies.items():
        counts = pc.value_counts(values).field("counts")
        once = pc.sum(pc.equal(counts, 1)).as_py() or 0
        expected = expected_values(len(counts), once, scale)
        if len(counts) < MANY and not grows:
            continue
        yield from ("", f"[tables.{table}]")
        if len(counts) >= MANY:
            yield "min_count = 2  # guess: values seen once in train share a row with the unseen"
        if grows:
            estimate = "" if scale == 1 else f" that {log.rows.num_rows:,} rows let expect"
            why = f"{_HEADROOM} times the {expected:,} values{estimate}, for new ones of days to come"
            yield f"capacity = {min(1 + math.ceil(_HEADROOM * expected), MAX_ROWS)}  # guess: {why}"


def _no_days(days: Sequence[date] | None) -> str:
    """Return why a log with times is not split by their days."""
    if days is None:
        return 'the CSV files are long, so that days were not counted; by = "day" is better, as docs/prep.md shows'
    with_rows = counted(len(days), "day")
    if len(days) < _MIN_DAYS:
        return f"{with_rows} with rows: too few for a split by day"
    return f"{with_rows} with rows, {len(_between(days)):,} between them without: too many gaps for a split by day"


def _between(days: Sequence[date]) -> list[date]:
    """Return the days without a row between the first and the last."""
    present, span = set(days), (days[-1] - days[0]).days
    return [day for day in (days[0] + timedelta(days=i) for i in range(span)) if day not in present]


def _feature(feature: Feature) -> Iterator[str]:
    yield from ("", "[[dense]]" if feature.dense else "[[sparse]]")
    yield f"name = {quoted(feature.name)}  # guess: {feature.why}"
    yield from (f"{key} = {value}" for key, value in feature.keys.items())


def _task(label: Label) -> Iterator[str]:
    yield from ("", "[[tasks]]")
    yield f"name = {quoted(label.column.feature)}  # guess: {label.why}"
    yield f"kind = {quoted(label.kind)}"
    yield f"label = {quoted(label.value)}"
    if label.column.nulls or label.column.odd:
        space = label.column.finite if label.column.odd else f"{label.column.expression} is not null"
        yield f"space = {quoted(space)}  # guess: other rows have no label"


def _train(name: str, dataset: Path, log: LogPreview, roles: Roles) -> Iterator[str]:
    several = len(roles.labels) > 1
    rows = log.sampled.rows
    batch = 128 if rows < _SMALL else 512 if rows < _LARGE else 4096
    yield f"# Written by `ple-rec init`: {'a small PLE' if several else 'a model of one task'} to begin with."
    yield "# docs/models.md has the others; `ple-rec train --help-config` lists every key."
    yield f"name = {quoted(name)}"
    yield from ("", "[data]", f"path = {quoted(str(dataset))}")
    yield from ("", "[embeddings]", "dim = 8  # guess: more for a log of many millions of rows")
    if any("bag" in feature.keys for feature in roles.features):
        yield 'pooling = "mean"  # of bags'
    yield from ("", "[model]", f'variant = "{"ple" if several else "single_task"}"')
    if several:
        for width in (64, 32):
            yield from ("", "[[model.levels]]", "task_experts = 1", "shared_experts = 1", f"expert_hidden = [{width}]")
    else:
        yield "bottom = [64, 32]"
    yield from ("", "[model.tower]", "hidden = [16]")
    yield from ("", "[dense_optimizer]", "learning_rate = 0.005", "", "[table_optimizer]", "learning_rate = 0.02")
    yield from ("", "[train]", f"batch_size = {batch}  # guess: by the {rows:,} rows of the log", "epochs = 2")
