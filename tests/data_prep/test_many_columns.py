"""A preparation of many columns: its queries grow as the columns do, and it writes the bytes that it always wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from data_prep import pipeline
from data_prep.engines import duck
from data_prep.output import split_writer
from data_prep.run import EngineName, Options, prepare
from data_prep.transforms import encode
from data_prep.vocabulary import build
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from tests.data_prep.engines.test_engines import LEAN
from tests.data_prep.feed_logs import digests
from tests.data_prep.plain_logs import SIDE, Logs, day_of
from tests.data_prep.plain_logs import TOML as PLAIN
from tests.data_prep.rate_logs import TOML as RATES

TOML = """
name = "many"
log = {files = ["log.parquet"]}
split = {by = "hash", value = "user", valid = 0.2, test = 0.2}

[[tasks]]
name = "like"
kind = "binary"
"""
ROWS = 120


def treat_few_as_many(patched: pytest.MonkeyPatch) -> None:
    """Let few columns be handled as many are, and few rows as many."""
    patched.setattr(pipeline, "WIDE_COLUMNS", 2)
    patched.setattr(encode, "MAX_JOIN_CELLS", 0)
    patched.setattr(encode, "JOINS_PER_QUERY", 2)
    patched.setattr(build, "_MAX_VOCABULARIES_PER_QUERY", 2)
    patched.setattr(build, "MIN_ROWS_TO_SPREAD", 0)


def letters_of_queries(folder: Path, columns: int) -> int:
    """Prepare a log of so many columns, a third of them cut into buckets, and return how long all queries are."""
    random = np.random.default_rng(0)
    table: dict[str, NDArray[Any]] = {"user": np.arange(ROWS) % 40, "like": np.arange(ROWS) % 2}
    text = TOML
    for i in range(columns):
        kind, more = (("dense", ""), ("sparse", ""), ("sparse", "quantiles = 3\n"))[i % 3]
        table[f"x{i}"] = random.normal(size=ROWS) if kind == "dense" else random.integers(0, 9, ROWS)
        text += f'\n[[{kind}]]\nname = "x{i}"\n{more}'
    folder.mkdir()
    pq.write_table(pa.table(table), folder / "log.parquet")
    (folder / "many.toml").write_text(text)
    letters, compiled, view = 0, duck._sql, duck.DuckEngine._view

    def counted(rows: ir.Table, *, fused: bool = False) -> str:
        nonlocal letters
        sql = compiled(rows, fused=fused)
        letters += len(sql)
        return sql

    def counted_view(self: duck.DuckEngine, sql: str) -> ir.Table:
        nonlocal letters
        letters += len(sql)
        return view(self, sql)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(duck, "_sql", counted)
        patched.setattr(duck.DuckEngine, "_view", counted_view)
        prepare(str(folder / "many.toml"), folder / "out", Options(source=str(folder), threads=1))
    return letters


def test_the_queries_of_twice_the_columns_are_twice_as_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    treat_few_as_many(monkeypatch)
    few, more, most = (letters_of_queries(tmp_path / str(n), n) for n in (9, 18, 36))
    assert most - more < 2.15 * (more - few)  # It was 2.3 times, on the way to 4, when queries named all columns.


@pytest.mark.parametrize("engine", ["duckdb", pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.slow])])
def test_many_columns_are_kept_and_joined_in_groups_with_the_bytes_of_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineName
) -> None:
    text = PLAIN + SIDE
    for old, new in LEAN:
        text = text.replace(old, new)
    names = ("few columns", "many that are kept", "many that are not")
    few, kept, derived_again = logs = [Logs(tmp_path / name, text) for name in names]
    for each in logs:
        each.users([{"user_id": i, "age": i % 3} for i in range(6)])
        for day in range(1, 5):
            table = day_of(day)
            each.write(day, table.append_column("serial", table["user_id"]))
    few.prepare()
    treat_few_as_many(monkeypatch)
    kept.prepare(engine=engine)
    for module in (pipeline, split_writer):
        monkeypatch.setattr(module, "MAX_KEPT_CELLS", 0)
    derived_again.prepare(engine=engine)
    assert digests(kept.out) == digests(few.out)
    assert digests(derived_again.out) == digests(few.out)


def test_columns_of_rates_take_memory_but_no_time_to_compile(tmp_path: Path) -> None:
    (tmp_path / "rates.toml").write_text(RATES)
    config = load_config(PrepConfig, tmp_path / "rates.toml")
    sparse = tuple(feature for feature in config.sparse if "by_video_id" not in feature.source)
    without = config.model_copy(update={"rates": (), "sparse": sparse})
    assert split_writer.query_column_count(config) == split_writer.query_column_count(without) + 1
    assert split_writer.column_count(config) == split_writer.column_count(without) + 1 + 9
