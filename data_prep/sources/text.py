"""Reading of text files (CSV), which are unpacked if their names end in .gz, and errors that name a line.

pyarrow reads CSV files fast, but its errors do not always name a line. Then functions of this module read the file
again with Python's csv module to find the line.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from data_prep.sources.find import FoundFile
from data_prep.sources.remote import open_source
from ple_rec.config.prep import ColumnType
from ple_rec.errors import DataError

Hint = tuple[str, str]  # Reason for the type of a column, and the fix for a cell of another type.

_CHUNK = 1 << 20  # Bytes that are read at a time.
csv.field_size_limit(1 << 24)  # A row has at most 16 MiB (`csv_types.BLOCK_BYTES`), and may be a single cell.
# Error messages of pyarrow's CSV reader.
_WRONG_CELL_COUNT = re.compile(r"CSV parse error: (?:Row #(\d+): )?Expected (\d+) columns, got (\d+)")
_BAD_CELL = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]+): (.*)", re.DOTALL)


class CountingStream:
    """Byte stream of a text file, which is unpacked if it is a gzip file.

    `line_count` counts the lines that are not blank, and `has_quotes` tells whether a quote has been read.

    Args:
        file: Text file.

    Raises:
        DataError: The file cannot be opened.
    """

    def __init__(self, file: FoundFile) -> None:
        self._file, self._packed = file, file.path.lower().endswith(".gz")
        try:
            source = open_source(file.path)
            self._raw = pa.OSFile(source) if isinstance(source, str) else source
            self._stream = pa.CompressedInputStream(self._raw, "gzip") if self._packed else self._raw
        except OSError as error:
            raise self._error(error) from error
        self.closed = False
        self.line_count = self._bytes = 0
        self.has_quotes = False
        self._in_line = False

    def read(self, size: int = _CHUNK) -> bytes:
        """Return at most `size` bytes, or 1 MiB if `size` is negative; an empty result is the end of the file.

        Raises:
            DataError: The file cannot be read or unpacked, or its first bytes are those of UTF-16 or gzip.
        """
        try:
            data = bytes(self._stream.read(_CHUNK if size < 0 else size))
        except OSError as error:
            raise self._error(error) from error
        if not self._bytes:
            _check_first_bytes(self._file, data)
        self._count(data)
        self._bytes += len(data)
        return data

    def _count(self, data: bytes) -> None:
        """Add the lines whose first byte is in `data` to `line_count`, except blank lines, which have only a line end.

        The suffix N of an array stands for the number of bytes.
        """
        if not data:
            return
        self.has_quotes = self.has_quotes or b'"' in data
        bytes_N = np.frombuffer(data, np.uint8)
        in_line_N = (bytes_N != ord("\n")) & (bytes_N != ord("\r"))
        beginnings = int(np.count_nonzero(in_line_N[1:] & ~in_line_N[:-1]))
        self.line_count += beginnings + int(in_line_N[0] and not self._in_line)
        self._in_line = bool(in_line_N[-1])

    def _error(self, error: OSError) -> DataError:
        reason, name = " ".join(str(error).split())[:200], self._file.display_name
        if self._packed and ("runcated" in reason or "inflate" in reason):
            fault = "is cut short" if "runcated" in reason else "is damaged, or no gzip file"
            return DataError(name, f"the gzip file {fault}", "it must be unpacked to its end", "copy it again")
        return DataError(name, f"cannot be read ({reason})", "every file of a table is read", "make it readable")

    def readable(self) -> bool:
        """Return True, as pyarrow expects of a file that it reads."""
        return True

    def bytes_read(self) -> int:
        """Return how many bytes of the file have been read, of a gzip file how many packed bytes; 0 if unknown."""
        if not self._packed:
            return self._bytes
        return int(self._raw.tell()) if self._raw.seekable() else 0

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self.closed = True
            self._stream.close()
            self._raw.close()


def _check_first_bytes(file: FoundFile, data: bytes) -> None:
    """Refuse a file whose first bytes show UTF-16 or gzip."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        fix = "convert the file, e.g. with iconv -f UTF-16 -t UTF-8"
        raise DataError(file.display_name, "begins with the byte order mark of UTF-16", "text is UTF-8", fix)
    if data.startswith(b"\x1f\x8b"):
        rule = "a file is unpacked if its name ends in .gz"
        raise DataError(file.display_name, "is a gzip file", rule, "rename it, or unpack it")


@contextmanager
def open_text(file: FoundFile) -> Iterator[CountingStream]:
    """Open a text file for reading.

    Raises:
        DataError: The file cannot be opened, or cannot be unpacked while it is read.
    """
    stream = CountingStream(file)
    try:
        yield stream
    finally:
        stream.close()


@dataclass(frozen=True)
class TextSource:
    """Text file from which a Parquet file was converted, with facts that the Parquet file does not hold.

    Args:
        file: Text file.
        delimiter: Delimiter between its cells.
        header: True if the first row names the columns.
        key: Dotted key of its CSV settings in the configuration, such as `log.csv`.
        inferred: Inferred types of the columns whose types are not declared, by column.
        offsets: UTC offsets in its timestamps, such as +08:00, by column; +00:00 is left out.
    """

    file: FoundFile
    delimiter: str = ","
    header: bool = False
    key: str = ""
    inferred: Mapping[str, ColumnType] = field(default_factory=dict, hash=False)
    offsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def line_of(self, row: int) -> int:
        """Return the line, counted from 1, on which a row begins. Rows count from 0, without the header.

        Raises:
            DataError: The file cannot be read.
        """
        return find_row(self.file, self.delimiter, row + 1 + int(self.header))[0]


def text_lines(file: FoundFile) -> Iterator[str]:
    """Yield the lines with their line ends. Bytes that are not UTF-8 are replaced, and a byte order mark is skipped."""
    with open_text(file) as stream:
        utf8 = codecs.getincrementaldecoder("utf-8-sig")("replace")
        decoder = io.IncrementalNewlineDecoder(utf8, translate=False)  # A piece never ends between \r and \n.
        rest, done = "", False
        while not done:
            data = stream.read(_CHUNK)
            done = not data
            lines = list(io.StringIO(rest + decoder.decode(data, final=done), newline=""))
            rest = "" if done or not lines else lines.pop()
            yield from lines


def first_bad_line(file: FoundFile) -> tuple[int, str] | None:
    """Return the number, counted from 1, and the text of the first line that is not UTF-8; None if all lines are."""
    with open_text(file) as stream:
        buffer = io.BytesIO()
        line = 0
        while data := stream.read(_CHUNK):
            buffer = io.BytesIO(buffer.read() + data)
            while text := buffer.readline():
                if not text.endswith(b"\n"):
                    buffer = io.BytesIO(text)
                    break
                line += 1
                if not _is_utf8(text):
                    return line, text.decode(errors="replace").strip()
        text = buffer.read()
        return None if _is_utf8(text) else (line + 1, text.decode(errors="replace").strip())


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def find_row(file: FoundFile, delimiter: str, number: int) -> tuple[int, list[str]]:
    """Return the line on which a row begins, counted from 1, and the cells of the row.

    If Python's csv module finds fewer rows, the line is the one where it stopped, and there are no cells.

    Args:
        file: Text file.
        delimiter: Delimiter between its cells.
        number: Number of the row, counted from 1. The header counts as a row, a blank line does not.
    """
    rows = csv.reader(text_lines(file), delimiter=delimiter)
    begin = 1
    try:
        for row in rows:
            if row:
                number -= 1
            if number == 0:
                return begin, row
            begin = rows.line_num + 1
    except csv.Error:
        pass
    return begin, []


def count_rows(file: FoundFile, delimiter: str) -> tuple[int, int | None, int]:
    """Count the rows with Python's csv reader, and find the first row with an unclosed quote.

    Such a quote makes the rows below it part of its cell, or shows that the file was cut off inside a cell. Counting
    ends there.

    Returns:
        Number of rows including the header; line, counted from 1, of the row with the unclosed quote, or None; and
        number of blank lines, which do not count as rows.
    """
    reader = csv.reader(text_lines(file), delimiter=delimiter, strict=True)
    rows = lines_before = blank = 0
    while True:
        try:
            is_row = bool(next(reader))
            rows, blank = rows + is_row, blank + (not is_row)
        except StopIteration:
            return rows, None, blank
        except csv.Error as error:  # Text follows a closing quote, which pyarrow accepts, or a quote is open.
            if reader.line_num - lines_before > 1 or "unexpected end" in str(error):
                return rows + 1, lines_before + 1, blank
            rows += 1
        lines_before = reader.line_num


def csv_error(
    file: FoundFile, delimiter: str, error: Exception, names: Sequence[str], hint: Callable[[str, str], Hint]
) -> DataError:
    """Return the error about a CSV file that pyarrow could not read, with line and column of the fault if known.

    Args:
        file: Text file.
        delimiter: Delimiter between its cells.
        error: Error that pyarrow raised when it read the file in one thread, since only then it counts rows.
        names: Names of the columns.
        hint: Function of a column and a cell that does not fit it. It returns the reason for the column's type, and
            the fix.
    """
    message = str(error)
    # A row does not fit into one block, mostly since a quote is not closed.
    if "straddling object" in message:
        _, line, _ = count_rows(file, delimiter)
        where = file.display_name if line is None else f"{file.display_name}, line {line}"
        rule = "a cell that begins with a quote ends with one, and a row has at most 16 MiB"
        return DataError(where, "a row does not end", rule, "correct the quotes")
    # Below, 0 stands for a row that pyarrow does not number; `find_row` then returns the line where it stops.
    match = _WRONG_CELL_COUNT.search(message)
    if match is not None:
        line, cells = find_row(file, delimiter, int(match[1] or 0))
        value = f"{match[3]} cells ({delimiter.join(cells)[:80]!r})"
        return DataError(
            f"{file.display_name}, line {line}",
            value,
            f"every row has {match[2]}",
            "correct the row; a cell that holds a delimiter or a line end must stand in quotes",
        )
    match = _BAD_CELL.search(message)
    if match is None:
        return DataError(
            file.display_name, " ".join(message.split())[:200], "it must be a sound CSV file", "write it again"
        )
    column = int(match[1])
    name = names[column] if column < len(names) else f"#{column}"
    if "UTF8" in match[4]:
        bad = first_bad_line(file)
        line, text = bad or (0, "")
        return utf8_error(file, line, text, f", column {name!r}")
    line, cells = find_row(file, delimiter, int(match[2] or 0))
    value = cells[column] if column < len(cells) else match[4]
    reason, fix = hint(name, value)
    place = f"{file.display_name}, line {line}, column {name!r}"
    return DataError(place, f"got {value[:80]!r}", f"the column is {match[3]}, {reason}", fix)


def utf8_error(file: FoundFile, line: int, text: str, column: str = "") -> DataError:
    """Return the error about a line that is not UTF-8; `column` is added to the place: `, column 'x'`."""
    rule = "text is UTF-8"
    fix = "convert the file, e.g. with iconv -f LATIN1 -t UTF-8"
    return DataError(f"{file.display_name}, line {line}{column}", f"reads {text[:80]!r}", rule, fix)
