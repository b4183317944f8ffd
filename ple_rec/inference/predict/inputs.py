"""Inputs of a prediction: splits of a dataset, or raw logs, as chunks of rows in the order of the input.

A position numbers the rows of the input from 0, so that a later call can continue where an earlier one ended. Rows of
logs that are left out have positions too. A section is a part of the input that batches do not cross, such as a split.

Shape suffixes: N rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ple_rec.config.base import Split
from ple_rec.config.schema import LOG_TIME, DatasetSchema, HistoryFeature, history_offsets
from ple_rec.config.words import suggestion
from ple_rec.data.arrow import BoolArray, IdArray, IntArray
from ple_rec.data.columns import Columns, Selection, decode
from ple_rec.data.dataset import DatasetDirectory, RowGroup, read_columns
from ple_rec.data.encode import Encoder
from ple_rec.data.histories import HistoryEvents
from ple_rec.errors import Option, UserError
from ple_rec.inference.predict.counts import Missing

# Names of features, alone or followed by "_id", that are copied to the output by default (`output_ids`).
_IDS = ("user", "video", "item", "photo", "ad", "request")


@dataclass(frozen=True)
class Chunk:
    """Rows of the input.

    Args:
        columns: Columns that the model reads.
        ids: Id columns, which are copied to the output; N rows.
        next_N: Position of the row that follows each row.
        place: Function that returns a text with the place of a row, for messages.
        missing: Flags of missing values; None if the input cannot tell missing values from unknown ones.
    """

    columns: Columns
    ids: pa.Table
    next_N: IntArray
    place: Callable[[int], str]
    missing: Missing | None = None


class PredictionInput(Protocol):
    """Input of a prediction, whose rows are numbered by position."""

    @property
    def rows(self) -> int:
        """Number of positions."""

    def sections(self, first: int) -> Generator[Generator[Chunk]]:
        """Yield sections of chunks from a position on.

        A batch never spans two sections. An input without rows yields one chunk without rows; so may a position after
        the last row, or it yields no section.

        Args:
            first: Position of the first row.

        Raises:
            DataError: Rows cannot be read, or break a rule.
        """

    def identity(self) -> dict[str, Any]:
        """Return JSON values that identify the input; those of any other input differ."""

    def check_unchanged(self) -> None:
        """Refuse an input that was replaced while it was read.

        Raises:
            DataError: A file has been replaced.
        """


def features_only(selection: Selection) -> Selection:
    """Return the features of a selection without tasks, sample weights, groups and slices, as predictions need none."""
    return replace(selection, tasks=(), sample_weight=None, group=None, subgroup=None, slices=())


def without_frozen_tables(selection: Selection) -> Selection:
    """Return a selection whose vectors are in the rows, as those of raw logs are."""
    vectors = tuple(feature.model_copy(update={"table": None}) for feature in selection.vectors)
    return replace(selection, vectors=vectors)


def output_ids(schema: DatasetSchema, ids: Sequence[str] | None, *, no_group: bool = False) -> list[str]:
    """Return the names of the columns that a prediction copies to the output.

    Args:
        schema: Schema of the dataset.
        ids: Names that the user asks for; None for the single-valued features with a name like `user_id`, `video` or
            `request_id`.
        no_group: True to leave out the group column, which is otherwise the first.
    """
    if ids is None:
        names = {name + end for name in _IDS for end in ("", "_id")}
        ids = [feature.name for feature in schema.sparse if not feature.bag and feature.name in names]
    group = [] if no_group or schema.group is None else [schema.group]
    return list(dict.fromkeys([*group, *ids]))


SPLIT = "split"


class DatasetInput:
    """Input of the splits of a dataset, in file order.

    Args:
        dataset: Dataset directory.
        selection: Features that the model reads.
        splits: Names of the splits.
        ids: Columns to copy to the output; with several splits, a column `split` is added.

    Raises:
        UserError: A split has no rows, a column is missing, or `ids` has the name `split` and there are several splits.
        DataError: A Parquet file of the dataset is damaged.
    """

    def __init__(
        self, dataset: DatasetDirectory, selection: Selection, splits: Sequence[Split], ids: Sequence[str]
    ) -> None:
        self.dataset, self.selection, self.splits, self.ids = dataset, selection, tuple(splits), tuple(ids)
        if len(self.splits) > 1 and SPLIT in self.ids:
            rule = "the output of several splits has a column of that name, with the split of each row"
            raise UserError(Option.IDS, f'got "{SPLIT}"', rule, "leave it out")
        needed = [*selection.column_names(), *self.ids]
        self._groups: dict[Split, list[RowGroup]] = {}
        for split in self.splits:
            existing = dataset.row_groups(split, selection.column_names())[0].footer.schema.to_arrow_schema().names
            if unknown := [name for name in self.ids if name not in existing]:
                fix = "name columns of the dataset's Parquet files"
                raise UserError(Option.IDS, f'got "{unknown[0]}"', suggestion(unknown[0], existing), fix)
            self._groups[split] = dataset.row_groups(split, needed)
        self.rows = sum(group.rows for groups in self._groups.values() for group in groups)

    def sections(self, first: int) -> Generator[Generator[Chunk]]:
        """Yield a section for each split that has rows from a position on."""
        start = 0
        for split, groups in self._groups.items():
            rows = sum(group.rows for group in groups)
            if first < start + rows:
                yield self._chunks(split, start, max(first - start, 0))
            start += rows

    def _chunks(self, split: Split, start: int, skip: int) -> Generator[Chunk]:
        for group in self._groups[split]:
            if skip < group.rows:
                yield self._chunk(split, group, start, skip)
            start, skip = start + group.rows, max(skip - group.rows, 0)

    def _chunk(self, split: Split, group: RowGroup, start: int, skip: int) -> Chunk:
        names = list(dict.fromkeys([*self.selection.column_names(), *self.ids]))
        table = read_columns(group, names).slice(skip)
        columns = decode(table, self.selection, group.place).arrange()
        ids = table.select(list(self.ids))
        if len(self.splits) > 1:
            ids = ids.append_column(SPLIT, pa.repeat(split, len(table)))
        next_N = np.arange(start + skip + 1, start + group.rows + 1)
        return Chunk(columns, ids, next_N, lambda row: f"{group.place}, row {skip + row}")

    def identity(self) -> dict[str, Any]:
        """Return the fingerprint of the dataset, the names of the splits and their number of rows."""
        return {"dataset": self.dataset.schema.fingerprint, "splits": list(self.splits), "rows": self.rows}

    def check_unchanged(self) -> None:
        """Do nothing, since each row group is compared with its file's footer when it is read."""


# Name of a column, and prefixes of names of columns, in the tables of `RawRows`.
POSITION, RAW, WEIGHTS, ID = "__position", "raw__", "weights__", "id__"


class RawRows(Protocol):
    """Rows of raw logs, which data preparation reads.

    Its tables have the position of each row in `POSITION`, dense features and vectors by their names, and for sparse
    features and id columns the name with a prefix: `RAW` for raw values, `WEIGHTS` for the weights of bags, `ID` for
    ids.

    With histories, they also have the columns of a dataset's parts: `<name>_begin` and `<name>_end` of each history,
    which are numbers of the events that `events` returns, and once the time of the row, `log_time`.
    """

    rows: int  # Number of rows.

    def batches(self, first: int) -> Generator[pa.Table]:
        """Yield tables of the rows from a position on."""

    def events(self, history: str) -> pa.Table:
        """Return the events of a history; this is called after `batches` has yielded its first table.

        The table has `log_time`, the time of each event (int64, seconds since 1970-01-01 UTC), and the raw values of
        each item under the name of its feature, with null for a missing value.
        """

    def locate(self, position: int) -> str:
        """Return the file and line of a row, for messages; this may read the file up to the row."""

    def file_name_at(self, position: int) -> str:
        """Return the file of a row, for messages."""

    def file_records(self) -> list[dict[str, object]]:
        """Return JSON values that identify the files, such as their sizes and times."""

    def check_unchanged(self) -> None:
        """Raise a DataError if a file was replaced while it was read."""


class EventsInMemory(HistoryEvents):
    """Events of a history in memory, such as those of a log.

    Args:
        history: History with its number of events.
        times_V: Time of each event, in seconds since 1970-01-01 UTC.
        ids: Row of the table of each item for each event, by name of its feature.
    """

    def __init__(self, history: HistoryFeature, times_V: IntArray, ids: Mapping[str, IdArray]) -> None:
        self.history, self._times_V, self._ids = history, times_V, ids

    def times(self) -> IntArray:
        """Return the time of each event, in seconds since 1970-01-01 UTC."""
        return self._times_V

    def ids(self, feature: str) -> IdArray:
        """Return the row of the table of an item for each event, by name of its feature."""
        return self._ids[feature]


@dataclass(frozen=True)
class RawInput:
    """Input of the rows of raw logs.

    Args:
        raw: Rows of the logs.
        encoder: Encoder of the dataset that the model was trained on.
        selection: Columns that the model reads. Its vectors have no frozen tables, since every row has its vectors.
    """

    raw: RawRows
    encoder: Encoder
    selection: Selection

    @property
    def rows(self) -> int:
        """Number of rows of the logs."""
        return self.raw.rows

    def sections(self, first: int) -> Generator[Generator[Chunk]]:
        """Yield a single section with the chunks from a position on."""
        yield self._chunks(first)

    def _chunks(self, first: int) -> Generator[Chunk]:
        selection: Selection | None = None
        for table in self.raw.batches(first):
            selection = selection or self._with_events()
            yield self._chunk(table, selection)

    def _with_events(self) -> Selection:
        """Return the selection with the events of the log in place of those of the dataset."""
        histories, events_by_name = [], {}
        for history in self.selection.histories:
            table = self.raw.events(history.name)
            ids = {
                name: self.encoder.rows(
                    name, table[name].combine_chunks(), f"events of {history.name}, {name}"
                ).to_numpy()
                for name in (item.feature for item in history.items)
            }
            histories.append(history.model_copy(update={"events": table.num_rows}))
            events_by_name[history.name] = EventsInMemory(histories[-1], table[LOG_TIME].to_numpy(), ids)
        return replace(self.selection, histories=tuple(histories), history_events=events_by_name)

    def _chunk(self, table: pa.Table, selection: Selection) -> Chunk:
        position_N = table[POSITION].to_numpy()

        def place(row: int) -> str:
            return self.raw.locate(int(position_N[row]))

        place_of_chunk = self.raw.file_name_at(int(position_N[0])) if len(table) else "the log"
        arrays: dict[str, pa.Array] = {}
        missing: dict[str, BoolArray] = {}
        for feature in (*selection.single, *selection.bags):
            values = table[f"{RAW}{feature.name}"].combine_chunks()
            arrays[feature.name] = self.encoder.rows(feature.name, values, f"{place_of_chunk}, {feature.name}")
            missing[feature.name] = _missing(values)
            if feature.weights is not None:
                arrays[feature.weights] = table[f"{WEIGHTS}{feature.name}"].combine_chunks()
        offsets = [name for history in selection.histories for name in history_offsets(history.name)]
        as_they_are = [each.name for each in (*selection.dense, *selection.vectors)]
        as_they_are += [LOG_TIME, *offsets] if offsets else []
        arrays |= {name: table[name].combine_chunks() for name in as_they_are}
        columns = decode(pa.table(arrays), selection, place_of_chunk).arrange()
        ids = [name for name in table.column_names if name.startswith(ID)]
        return Chunk(
            columns=columns,
            ids=table.select(ids).rename_columns([name.removeprefix(ID) for name in ids]),
            next_N=position_N + 1,
            place=place,
            missing=Missing(
                np.stack([missing[feature.name] for feature in selection.single] or [np.empty(0, np.bool_)]),
                tuple(missing[feature.name] for feature in selection.bags),
            ),
        )

    def identity(self) -> dict[str, Any]:
        """Return JSON values that identify the files of the log and of the tables that are joined to it."""
        return {"files": self.raw.file_records()}

    def check_unchanged(self) -> None:
        """Refuse logs if one of their files was replaced while it was read.

        Raises:
            DataError: A file has been replaced.
        """
        self.raw.check_unchanged()


def _missing(values: pa.Array) -> BoolArray:
    items = values.flatten() if pa.types.is_nested(values.type) else values
    missing: BoolArray = items.is_null().to_numpy(zero_copy_only=False)
    return missing
