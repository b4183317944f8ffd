"""Raw logs, to be predicted: values become ids by the vocabularies of the run's dataset.

Shape suffixes: N rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ple_rec.data.arrow import BoolArray
from ple_rec.data.columns import Selection, decode
from ple_rec.data.encode import Encoder
from ple_rec.inference.predict.counts import Missing
from ple_rec.inference.predict.inputs import Chunk

POSITION, RAW, WEIGHTS, ID = "__position", "raw__", "weights__", "id__"


class RawRows(Protocol):
    """Rows of raw logs, as data preparation reads them: tables of `POSITION`, raw values, weights, numbers and ids."""

    rows: int

    def batches(self, first: int) -> Generator[pa.Table]:
        """Yield the rows from a position on."""

    def locate(self, position: int) -> str:
        """Return where a row lies, for messages; that may take reading a file up to it."""

    def file_of(self, position: int) -> str:
        """Return the file that a row lies in, for messages."""

    def stamps(self) -> list[dict[str, object]]:
        """Return what tells the files from others."""

    def check_unchanged(self) -> None:
        """Refuse what was read where a file was replaced meanwhile, by a DataError."""


@dataclass(frozen=True)
class RawInput:
    """Rows of raw logs.

    Args:
        raw: The rows.
        encoder: Encoder of the dataset that the model was trained on.
        selection: Columns that the model reads.
    """

    raw: RawRows
    encoder: Encoder
    selection: Selection

    @property
    def rows(self) -> int:
        """Number of rows of the logs."""
        return self.raw.rows

    def sections(self, first: int) -> Generator[Generator[Chunk]]:
        """Yield one section, the chunks from a position on."""
        yield self._chunks(first)

    def _chunks(self, first: int) -> Generator[Chunk]:
        for table in self.raw.batches(first):
            yield self._chunk(table)

    def _chunk(self, table: pa.Table) -> Chunk:
        position_N = table[POSITION].to_numpy()

        def place(row: int) -> str:
            return self.raw.locate(int(position_N[row]))

        where = self.raw.file_of(int(position_N[0])) if len(table) else "the log"
        found: dict[str, pa.Array] = {}
        missing: dict[str, BoolArray] = {}
        for feature in self.selection.sparse:
            values = table[f"{RAW}{feature.name}"].combine_chunks()
            found[feature.name] = self.encoder.rows(feature.name, values, f"{where}, {feature.name}")
            missing[feature.name] = _missing(values)
            if feature.weights is not None:
                found[feature.weights] = table[f"{WEIGHTS}{feature.name}"].combine_chunks()
        found |= {number.name: table[number.name].combine_chunks() for number in self.selection.dense}
        columns = decode(pa.table(found), self.selection, where).arrange()
        ids = [name for name in table.column_names if name.startswith(ID)]
        carried = table.select(ids).rename_columns([name.removeprefix(ID) for name in ids])
        return Chunk(
            columns=columns,
            ids=carried,
            next_N=position_N + 1,
            place=place,
            missing=Missing(
                np.stack([missing[feature.name] for feature in self.selection.single] or [np.empty(0, np.bool_)]),
                tuple(missing[feature.name] for feature in self.selection.bags),
            ),
        )

    def identity(self) -> dict[str, Any]:
        """Return what tells the files of log and side tables from others."""
        return {"files": self.raw.stamps()}

    def check_unchanged(self) -> None:
        """Refuse what was read where a file was replaced meanwhile, by a DataError."""
        self.raw.check_unchanged()


def _missing(values: pa.Array) -> BoolArray:
    items = values.flatten() if pa.types.is_nested(values.type) else values
    missing: BoolArray = items.is_null().to_numpy(zero_copy_only=False)
    return missing
