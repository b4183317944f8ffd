"""A delta has the answers of the whole version, shares the memory of its base, and is refused where it does not fit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ple_rec import load_model
from ple_rec.errors import DataError
from ple_rec.inference import remote_model
from ple_rec.inference.arrays import VersionArrays
from ple_rec.inference.delta import (
    delta_info,
    manifest_digest,
    read_changed_rows,
    read_vocabulary_changes,
    version_chain,
    write_changed_rows,
)
from ple_rec.inference.load_version import load_ranker
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.tables import ChangedRows, StoredTable
from ple_rec.storage import Remote, location, remove_tree
from ple_rec.storage.cache import download
from tests.data_prep.plain_logs import DAY_1
from tests.inference.delta_versions import Days, edit, values_of
from tests.object_store import put_folder

Parts = list[dict[str, Any]]


@pytest.fixture(scope="module")
def days(feed_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Days:
    """A whole version and three deltas, in int8."""
    made = Days(tmp_path_factory.mktemp("days"), feed_model / "versions/v1")
    for _ in range(3):
        made.add()
    return made


def requests(days: Days) -> Parts:
    """Return requests with values of every version, in random places; the last one is in the raw form."""
    rng, wholes = np.random.default_rng(0), [days.whole(i) for i in range(1, days.count + 1)]
    features = {each.name: each for each in Ranker(days.whole(1), 1).signature.sparse}
    tables = {"user_id": "user_id", "video_id": "video_id", "history": "video_id", "city": "city"}
    values = {name: sorted({x for each in wholes for x in values_of(each, table)}) for name, table in tables.items()}
    assert all(len(each) > len(values_of(wholes[0], tables[name])) for name, each in values.items())

    def draw(name: str) -> Any:
        if features[name].bag:
            return [values[name][i] for i in rng.integers(0, len(values[name]), 5)]
        return values[name][rng.integers(0, len(values[name]))]

    rows = [[{name: draw(name) for name in tables} for _ in range(40)] for _ in range(5)]
    raw = [{name: draw(name) for name in ("user_id", "video_id", "history")} | {"time_ms": DAY_1} for _ in range(40)]
    return [*({"rows": each} for each in rows), {"form": "raw", "rows": raw}]


def answers(ranker: Ranker, documents: Parts) -> Parts:
    """Return the answers without the name of the version."""
    found = ranker.answer([ranker.read_score(each) for each in documents])
    return [each | {"version": None} for each in found]


def test_answers_are_those_of_the_whole_version(days: Days) -> None:
    documents = requests(days)
    ranker = Ranker(days.version(1), 1)
    scores = [answers(ranker, documents)]
    for i in range(2, days.count + 1):
        ranker = ranker.with_delta(days.version(i))
        scores.append(answers(ranker, documents))
        assert scores[-1] == answers(Ranker(days.whole(i), 1), documents)
        assert scores[-1] not in scores[:-1]
    loaded = load_ranker(days.version(days.count), 1)
    assert (answers(loaded, documents), loaded.version) == (scores[-1], f"v{days.count}")


def test_the_older_ranker_goes_on_and_shares_its_memory(days: Days) -> None:
    documents = requests(days)
    old = Ranker(days.version(1), 1)
    before = answers(old, documents)
    new = old.with_delta(days.version(2))
    newest = new.with_delta(days.version(3))
    assert answers(old, documents) == before
    assert old.arrays.overlay_bytes == 0 < new.arrays.overlay_bytes < newest.arrays.overlay_bytes
    for ranker in (new, newest):
        for name, table in ranker.arrays.tables.items():
            assert table._stored.data_ptr() == old.arrays.tables[name]._stored.data_ptr()
        for name, vocabulary in ranker.arrays.encoder.vocabularies.items():
            assert vocabulary._index is old.arrays.encoder.vocabularies[name]._index


def test_a_delta_takes_no_memory_for_the_rows_of_its_base(tmp_path: Path) -> None:
    rows, dim, page = 1 << 20, 56, os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    with (tmp_path / "t.int8").open("wb") as file:
        file.truncate(rows * (dim + 8))
    table = StoredTable(tmp_path / "t.int8", rows, dim, "int8")
    before = resident()
    for _ in range(3):
        table = table.with_changes(
            ChangedRows(torch.arange(1000, dtype=torch.int32), torch.zeros(1000, dim + 8, dtype=torch.uint8))
        )
        table.pool(torch.arange(500, dtype=torch.int32))
    assert resident() - before < rows * (dim + 8) / 8


def test_a_chain_that_is_partly_in_memory_is_read_from_there_on(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    old = load_ranker(days.version(2), 1)
    applied: list[str] = []
    apply = VersionArrays.with_delta

    def record(arrays: VersionArrays, version: Path) -> VersionArrays:
        applied.append(version.name)
        return apply(arrays, version)

    monkeypatch.setattr(VersionArrays, "with_delta", record)
    new = load_ranker(days.version(4), 1, older=old)
    assert applied == ["v3", "v4"]
    assert next(iter(new.arrays.tables.values()))._stored is next(iter(old.arrays.tables.values()))._stored


def test_a_version_that_is_copied_anew_is_read_anew(days: Days) -> None:
    old = load_ranker(days.version(2), 1)
    new = load_ranker(days.version(2), 1, older=old)
    assert next(iter(new.arrays.tables.values()))._stored is not next(iter(old.arrays.tables.values()))._stored


def test_a_chain_of_another_version_of_the_same_name_is_read_whole(days: Days, tmp_path: Path) -> None:
    own, old = copied(days, tmp_path), load_ranker(days.version(2), 1)
    with edit(own.version(2)) as description:
        description["made_by"] = "another export"
    with edit(own.version(3)) as description:
        description["delta"]["manifest"] = manifest_digest(own.version(2))
    new = load_ranker(own.version(3), 1, older=old)
    documents = requests(days)
    assert answers(new, documents) == answers(Ranker(days.whole(3), 1), documents)


def copied(days: Days, folder: Path) -> Days:
    """Return a copy of the model that a test may change."""
    own = Days.__new__(Days)
    shutil.copytree(days.model, folder / "model")
    own.model, own.count = folder / "model", days.count
    return own


def test_the_chain_begins_with_the_whole_version(days: Days) -> None:
    assert version_chain(days.version(3)) == [days.version(i) for i in (1, 2, 3)]
    assert version_chain(days.version(1)) == [days.version(1)]
    info = delta_info(days.version(2))
    assert info is not None
    assert info.base == "v1"
    assert 0 < info.share < 0.5
    assert delta_info(days.version(1)) is None


def test_a_delta_is_loaded_by_any_path_of_its_folder(
    days: Days, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "current").symlink_to(days.version(3))
    monkeypatch.chdir(days.version(3))
    for path in (".", tmp_path / "current"):
        model = load_model(path)
        assert (model.path, model.version) == (days.version(3).resolve(), "v3")


def test_each_version_of_a_chain_in_a_store_is_copied_once(
    days: Days, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []

    def record(file: Remote, copy: Path, digest: str | None) -> None:
        copied.append(str(file).removeprefix(f"{address}/versions/").split("/")[0])
        download(file, copy, digest)

    monkeypatch.setattr(remote_model, "download", record)
    put_folder(days.model, address.removeprefix("s3://"))
    versions = location(address) / "versions"
    old = load_ranker(versions / "v2", 1)
    assert set(copied) == {"v1", "v2"}
    copied.clear()
    new = load_ranker(versions / "v3", 1, older=old)
    assert set(copied) == {"v3"}
    assert next(iter(new.arrays.tables.values()))._stored is next(iter(old.arrays.tables.values()))._stored
    copied.clear()
    documents = requests(days)
    assert answers(load_ranker(versions / "v3", 1), documents) == answers(new, documents)
    assert not copied
    remove_tree(versions / "v1")
    with pytest.raises(DataError, match=rf"{address}/versions/v1: is missing; v2 has only what differs from it"):
        load_ranker(versions / "v3", 1)


def remove_base(days: Days) -> None:
    shutil.rmtree(days.version(2))


def replace_base(days: Days) -> None:
    """Put another version in the place of the base."""
    with edit(days.version(2)) as description:
        description["name"] = "another"


def damage_base(days: Days) -> None:
    """Change a byte of the base, whose manifest stays."""
    damage(days.version(2))


def damage_delta(days: Days) -> None:
    damage(days.version(3))


def damage(version: Path) -> None:
    file = max((version / "tables").iterdir(), key=lambda each: each.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def lose_a_vocabulary(days: Days) -> None:
    with edit(days.version(3)):
        (days.version(3) / "vocab/user_id.delta.parquet").unlink()


def lead_away(days: Days) -> None:
    """Let the base be a folder outside of the model."""
    with edit(days.version(3)) as description:
        description["delta"]["base"] = "../../elsewhere"


def damage_entry(days: Days) -> None:
    with edit(days.version(3)) as description:
        del description["delta"]["manifest"]


def change_rows(days: Days, change: Callable[[np.ndarray[Any, Any]], None]) -> None:
    """Change the row numbers of a table of the delta."""
    with edit(days.version(3)) as description:
        table = max(description["tables"], key=lambda each: each["changed"])
        file = days.version(3) / "tables" / table["file"]
        content = bytearray(file.read_bytes())
        change(np.frombuffer(content, "<i4", table["changed"]))
        file.write_bytes(content)


def swap_rows(days: Days) -> None:
    def swap(rows: np.ndarray[Any, Any]) -> None:
        rows[:2] = rows[1::-1].copy()

    change_rows(days, swap)


def leave_the_table(days: Days) -> None:
    change_rows(days, lambda rows: rows.__setitem__(-1, 1 << 20))


def leave_the_table_below(days: Days) -> None:
    change_rows(days, lambda rows: rows.__setitem__(0, -1))


def cut_rows(days: Days) -> None:
    with edit(days.version(3)) as description:
        file = days.version(3) / "tables" / description["tables"][0]["file"]
        file.write_bytes(file.read_bytes()[:-1])


def widen_a_table(days: Days) -> None:
    with edit(days.version(3)) as description:
        description["tables"][0]["rows"] += 1


def drop_a_table(days: Days) -> None:
    with edit(days.version(3)) as description:
        del description["tables"][0]


def repeat_a_value(days: Days) -> None:
    file = days.version(3) / "vocab/user_id.delta.parquet"
    with edit(days.version(3)):
        table = pq.read_table(file)
        value = next(each for each in table["raw"].to_pylist() if each is not None)
        values = pa.array([value] * len(table), table["raw"].type)
        pq.write_table(table.set_column(table.column_names.index("raw"), "raw", values), file)


def forget_previous(days: Days) -> None:
    file = days.version(3) / "vocab/user_id.delta.parquet"
    with edit(days.version(3)):
        table = pq.read_table(file)
        previous = pa.nulls(len(table), table["previous"].type)
        pq.write_table(table.set_column(table.column_names.index("previous"), "previous", previous), file)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (remove_base, r"v2: is missing; v3 has only what differs from it"),
        (replace_base, r"v3: was made from v2 with the manifest .*, not from v2 with the manifest"),
        (damage_base, r"v2/tables/.*has the SHA-256"),
        (damage_delta, r"v3/tables/.*has the SHA-256"),
        (lose_a_vocabulary, r"v3/vocab/user_id.delta.parquet: unreadable"),
        (lead_away, r"model.json: unreadable \(the base of the delta is '../../elsewhere'\)"),
        (damage_entry, r"model.json: unreadable \(the entry delta is"),
        (swap_rows, r"int8.delta: row \d+ after row \d+; the numbers of changed rows ascend"),
        (leave_the_table, r"int8.delta: row 1048576; the table has the rows 0 to"),
        (leave_the_table_below, r"int8.delta: row -1; the table has the rows 0 to"),
        (cut_rows, r"delta: has \d+ bytes; \d+ changed rows of \d+ columns in int8 take"),
        (widen_a_table, r"v3: table \w+ has .*; it has \(rows, columns, precision\)"),
        (drop_a_table, r"v3: table \w+ has None; it has"),
        (repeat_a_value, r"v3.*is repeated"),
        (forget_previous, r"v3.*row \d+ had None before the changes, but here it has \d+"),
    ],
)
def test_a_version_that_does_not_fit_is_refused(
    days: Days, tmp_path: Path, change: Callable[[Days], None], why: str
) -> None:
    own = copied(days, tmp_path)
    change(own)
    with pytest.raises(DataError, match=why):
        load_ranker(own.version(3), 1)


def test_a_ranker_takes_only_deltas_of_its_version(days: Days) -> None:
    first = Ranker(days.version(1), 1)
    with pytest.raises(DataError, match=r"v3: was made from v2 with the manifest .*, not from v1 with"):
        first.with_delta(days.version(3))
    with pytest.raises(DataError, match=r"v1: is whole; only a delta can be put on v1"):
        first.with_delta(days.version(1))
    with pytest.raises(DataError, match=r"v2: is a delta; it has only what differs from v1"):
        Ranker(days.version(2), 1)


def test_changed_rows_come_back(tmp_path: Path) -> None:
    changes = ChangedRows(torch.tensor([0, 7, 9], dtype=torch.int32), torch.arange(36, dtype=torch.uint8).view(3, 12))
    write_changed_rows(tmp_path / "t", changes)
    found = read_changed_rows(tmp_path / "t", 3, 10, 4, "int8")
    assert found.rows_E.tolist() == [0, 7, 9]
    assert torch.equal(found.stored_EP, changes.stored_EP)
    empty = ChangedRows(torch.zeros(0, dtype=torch.int32), torch.zeros(0, 12, dtype=torch.uint8))
    write_changed_rows(tmp_path / "t", empty)
    assert len(read_changed_rows(tmp_path / "t", 0, 10, 4, "int8").rows_E) == 0


def test_rows_that_wrap_around_int32_are_refused(tmp_path: Path) -> None:
    rows_E = torch.tensor([3, 2**31 - 1, -(2**31), -1, 5], dtype=torch.int32)
    write_changed_rows(tmp_path / "t", ChangedRows(rows_E, torch.zeros(5, 12, dtype=torch.uint8)))
    with pytest.raises(DataError, match=r"row -2147483648 after row 2147483647; the numbers of changed rows ascend"):
        read_changed_rows(tmp_path / "t", 5, 10, 4, "int8")


@pytest.mark.parametrize("row", [pa.array([2**32 + 1, 2**32 + 2]), pa.array([1.7, 2.9])])
def test_rows_of_a_vocabulary_are_int32(tmp_path: Path, row: pa.Array) -> None:
    table = pa.table({"row": row, "raw": [77, 78], "previous": pa.nulls(2, pa.int64())})
    pq.write_table(table, tmp_path / "t")
    with pytest.raises(DataError, match=rf"unreadable \(the rows are {row.type}, not int32\)"):
        read_vocabulary_changes(tmp_path / "t")
