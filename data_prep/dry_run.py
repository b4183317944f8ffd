"""`ple-rec prep --dry-run`: what would be done, from footers and a sample, without writing anything."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import numbers, sides
from data_prep.dictionaries import Dictionaries
from data_prep.encode import encoded
from data_prep.engines.duck import DuckEngine
from data_prep.parent import Parent
from data_prep.parts import COMPRESSION, COMPRESSION_LEVEL
from data_prep.pipeline import Raw, find_day_1
from data_prep.progress import Progress
from data_prep.resolve import Resolved
from data_prep.rows import REASON, SPLIT, Derived, columns_of, condition_of, derive
from data_prep.run import Options, planned, read_recipe
from data_prep.sources.files import POSITION
from ple_rec.config.base import SPLITS
from ple_rec.config.prep import PrepConfig, SparseSpec

SAMPLE_ROWS = 65_536  # of each place that is sampled
_PLACES = 3  # begin, middle and end of the log
_DIM = 16  # of an embedding, for the size of the tables
_VOCABULARY_BYTES = 10  # a value of a vocabulary on disk, about
_ROWS_SHOWN = 40
_CELLS_PER_SECOND = 5.5e6  # of the log, a core: what `ple-rec bench prep` showed for 37 columns
_START_SECONDS = 5.0  # of any run, about: to plan queries takes as long for few rows as for many
_SYNTHETIC_BYTES = {"tencent-synthetic": 40, "mmoe-synthetic": 2_080}  # a row of the parts, about


@dataclass(frozen=True)
class Guess:
    """Distinct values of a column: in the sample, and expected in the whole log."""

    sampled: int
    expected: int


def dry_run(what: str, out: Path | None, options: Options) -> str:
    """What `prepare` would do with the same arguments.

    Raises:
        UserError: What `prepare` would find in configuration and files before it reads a row.
        DataError: Likewise; rows of the sample that break a rule are told, not raised.
    """
    config, place, files = read_recipe(what, options.overrides)
    resolved, parent = planned(config, place, options)
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder:
        raw = files(resolved, options.source, Path(folder) / "staging", Progress(config.name), digest=False)
        engine = DuckEngine(Path(folder), memory=options.memory, threads=options.threads)
        threads = options.threads or len(os.sched_getaffinity(0))
        try:
            return "\n".join(_Rehearsal(engine, resolved, raw, parent, Path(folder), threads).lines(out))
        finally:
            engine.close()


def dry_run_synthetic(name: str, **arguments: Any) -> str:
    """What `data_prep.synthetic.prepare_synthetic` would do with the same arguments.

    Raises:
        UserError: An argument out of its range.
    """
    from data_prep.synthetic.prepare import design_of

    design = design_of(name, **arguments)
    rows, tables = int(design.recipe()["rows"]), design.fields().get("tables", ())
    lines = [f"{name}: a dry run; nothing is written", f"  rows         {rows:,}"]
    lines += [_tables_line([table.rows for table in tables])] if tables else []
    return "\n".join([*lines, _disk_line(_SYNTHETIC_BYTES[name], rows)])


class _Rehearsal:
    def __init__(
        self,
        engine: DuckEngine,
        resolved: Resolved,
        raw: Raw,
        parent: Parent | None,
        folder: Path,
        threads: int,
    ) -> None:
        self.engine, self.raw, self.parent, self.folder = engine, raw, parent, folder
        self.resolved = replace(resolved, tables={"log": raw.log, **raw.sides})
        self.total = raw.log.rows
        self.threads = threads
        rows = self._sample()
        self.sampled = int(engine.fetch(rows.aggregate(n=rows.count()))["n"][0].as_py())
        self.derived = self._derive(rows)
        self.counts = self._counts()
        self.guesses = {feature.name: self._guess(feature) for feature in self.config.sparse if not feature.bucketised}
        self.row_bytes = self._row_bytes()

    @property
    def config(self) -> PrepConfig:
        return self.resolved.config

    def _sample(self) -> ir.Table:
        """Rows from begin, middle and end of the log, joined with the side tables."""
        last = max(self.total - SAMPLE_ROWS, 0)
        starts = sorted({last * i // (_PLACES - 1) for i in range(_PLACES)})
        scans, end = [], 0
        for start in starts:
            first, end = max(start, end), min(start + SAMPLE_ROWS, self.total)
            if first < end:
                scans.append(self.engine.scan(self.raw.log, self.resolved.log_columns, first, end))
        rows = ibis.union(*scans, distinct=False) if len(scans) > 1 else scans[0]
        if self.config.log.where is not None:
            value = self.resolved.build("log.where", columns_of(rows))
            rows = rows.filter(condition_of("log.where", value, self.resolved))
        tables = {}
        for name, raw in self.raw.sides.items():
            tables[name] = self.engine.scan(raw, self.resolved.side_columns[name])
            sides.check_keys(self.engine, raw, tables[name], name, self.resolved)
        return self.engine.keep("sample", sides.joined(rows, tables, self.resolved))

    def _derive(self, rows: ir.Table) -> Derived:
        day_1 = find_day_1(self.engine, rows, self.resolved)
        if not numbers.is_settled(self.config):
            self.resolved = numbers.settled(self.engine, derive(rows, self.resolved, day_1).table, self.resolved)
        return derive(rows, self.resolved, day_1)

    def _counts(self) -> dict[tuple[int, int], int]:
        """Rows of the sample by split and reason."""
        rows = self.derived.table
        found = self.engine.fetch(rows.group_by([SPLIT, REASON]).aggregate(rows=rows.count())).to_pylist()
        return {(row[SPLIT], row[REASON]): row["rows"] for row in found}

    def _guess(self, feature: SparseSpec) -> Guess:
        """GEE (Charikar et al., 2000): sqrt(N / n) f_1 + sum of f_j, j > 1; f_j: values seen j times in n of N rows."""
        rows = self.derived.table
        values = rows.select(raw=rows[f"raw__{feature.name}"])
        values = values.unnest("raw") if feature.bag else values
        counted = values.filter(values["raw"].notnull()).group_by("raw").aggregate(n=ibis._.count())
        found = self.engine.fetch(
            counted.aggregate(distinct=counted.count(), once=(counted["n"] == 1).sum().fill_null(0))
        ).to_pylist()[0]
        distinct, once = int(found["distinct"]), int(found["once"])
        scale = math.sqrt(self.total / self.sampled) if self.sampled else 1.0
        return Guess(distinct, round(distinct - once + scale * once))

    def _row_bytes(self) -> float:
        """Bytes of a row of the parts, of the sample written as they are."""
        rows = self.derived.table
        made = Dictionaries(self.engine, self.config, self.folder / "vocab", self.parent)
        for table in made.names:
            made.make(table, rows)
        out = encoded(rows, self.config.sparse, made.entries, made.tables).order_by(POSITION)
        names = [name for name in out.columns if not name.startswith("__")]
        table = self.engine.fetch(out.select(*names))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression=COMPRESSION, compression_level=COMPRESSION_LEVEL)
        return int(sink.getvalue().size) / max(int(table.num_rows), 1)

    def lines(self, out: Path | None) -> Iterator[str]:
        config = self.config
        yield f"{config.name}: a dry run; nothing is written" + (f" to {out}" if out is not None else "")
        for name, table in {"log": self.raw.log, **self.raw.sides}.items():
            size = sum(file.size for file in table.files)
            yield f"  {name:12} {len(table.files):>6,} file(s) {table.rows:>15,} rows {_size(size):>10}"
        whole = self.total <= _PLACES * SAMPLE_ROWS
        where = "the whole log" if whole else "begin, middle and end of the log"
        taken = "" if self.config.log.where is None else ", those that log.where takes"
        yield f"  sample       {self.sampled:,} rows: {where}{taken}"
        known = max(sum(self.counts.values()), 1)
        shares = [f"{split} {self.counts.get((i, 0), 0) / known:.0%}" for i, split in enumerate(SPLITS)]
        shares.append(f"none {sum(n for (split, why), n in self.counts.items() if split < 0 and not why) / known:.0%}")
        yield f"  split        {', '.join(shares)} of the sample"
        if whole and (empty := [split for i, split in enumerate(SPLITS) if not self.counts.get((i, 0))]):
            yield f"  split        prep will refuse it: no row lies in {' and '.join(empty)}"
        yield from self._bad(known)
        yield f"  {'column':24} {'becomes':34} {'distinct in the sample':>22} {'in the log, about':>18}"
        yield from self._columns()
        yield from self._sizes(out)

    def _bad(self, known: int) -> Iterator[str]:
        for reason in sorted({reason for _, reason in self.counts if reason}):
            rule = self.derived.rules[reason - 1]
            count = sum(n for (_, r), n in self.counts.items() if r == reason)
            verdict = "dropped" if self.config.on_bad_row == "drop" else "prep will refuse them"
            yield f"  bad rows     {count / known:.2%} break {rule.key}: {rule.rule} ({verdict})"

    def _columns(self) -> Iterator[str]:
        shown = 0
        for feature in self.config.sparse:
            if (shown := shown + 1) > _ROWS_SHOWN:
                yield f"  ... and {len(self.config.sparse) - _ROWS_SHOWN} sparse features more"
                break
            if feature.bucketised:
                yield f"  {feature.name:24} {len(feature.edges or ()) + 1} buckets"
                continue
            guess = self.guesses[feature.name]
            kind = f"{'bag of ' if feature.bag else ''}rows of table {feature.table_name}"
            yield f"  {feature.name:24} {kind:34} {guess.sampled:>22,} {guess.expected:>18,}"
        for number in self.config.dense:
            yield f"  {number.name:24} dense, {number.normaliser}"
        for task in self.config.tasks:
            space = f" where {task.space}" if task.space is not None else ""
            yield f"  {task.name:24} {task.kind}: {task.source}{space}"

    def _sizes(self, out: Path | None) -> Iterator[str]:
        rows = list(self._table_rows().values())
        yield _tables_line(rows)
        yield _disk_line(self.row_bytes, self.total, sum(rows) * _VOCABULARY_BYTES, out)
        cells = self.total * (len(self.resolved.log_columns) + sum(map(len, self.resolved.side_columns.values())))
        seconds = _START_SECONDS + cells / (_CELLS_PER_SECOND * self.threads)
        cores = f"{self.threads} core{'s' if self.threads > 1 else ''}"
        yield f"  time         about {_duration(seconds)} on {cores} of DuckDB, by the rate in docs/prep.md"

    def _table_rows(self) -> Mapping[str, int]:
        rows: dict[str, int] = {}
        for feature in self.config.sparse:
            spec = self.config.tables.get(feature.table_name)
            if feature.bucketised:
                rows[feature.name] = len(feature.edges or ()) + 2
            elif spec is not None and spec.capacity is not None:
                rows[feature.table_name] = spec.capacity
            else:
                rows[feature.table_name] = max(rows.get(feature.table_name, 0), self.guesses[feature.name].expected + 1)
        return rows


def _tables_line(rows: Sequence[int]) -> str:
    weights = _size(sum(rows) * _DIM * 4)
    return f"  tables       {len(rows)} of about {sum(rows):,} rows; {weights} of fp32 weights at dim {_DIM}"


def _disk_line(row_bytes: float, rows: int, vocabularies: float = 0, out: Path | None = None) -> str:
    words = f"about {_size(row_bytes * rows)} of parts ({row_bytes:.0f} bytes a row)"
    if vocabularies:
        words += f", {_size(vocabularies)} of vocabularies, and as much again while it works"
    if out is not None:
        place = next(folder for folder in out.absolute().parents if folder.is_dir())
        words += f"; {_size(shutil.disk_usage(place).free)} are free there"
    return f"  disk         {words}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
