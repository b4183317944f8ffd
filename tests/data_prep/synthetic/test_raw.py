"""Raw logs of the synthetic feed: files by day, kept where they are finished, the same by any number of processes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep.synthetic import write_raw
from data_prep.synthetic.columns import raw_table
from data_prep.synthetic.feed import Feed
from data_prep.synthetic.world import DAY_MS, START_MS, World
from ple_rec.errors import UserError

ROWS = 20_000


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "new" / "logs"
    write_raw(folder, ROWS, 5, files=10)
    return folder


def test_days_and_times(written: Path) -> None:
    files = sorted(written.iterdir())
    assert [path.name for path in files][:4] == [
        "2020-03-02-000.parquet",
        "2020-03-02-001.parquet",
        "2020-03-03-000.parquet",
        "2020-03-03-001.parquet",
    ]
    assert len(files) == 10
    for path in files:
        time = pq.read_table(path)["time_ms"]
        day = int(path.name[8:10]) - 2
        assert pc.all(pc.equal(pc.divide(pc.subtract(time, START_MS), DAY_MS), day)).as_py()
        assert time.to_pylist() == sorted(time.to_pylist())


def test_all_impressions_in_plain_types(written: Path) -> None:
    found = pa.concat_tables([pq.read_table(path) for path in sorted(written.iterdir())])
    world = World(ROWS, 5)
    expected = pa.concat_tables(
        [raw_table(world, Feed(world).block_at(block)) for block in world.blocks_of_days(range(8), ROWS)]
    )
    assert found.schema.field("gender").type == pa.string()
    plain = pa.schema([(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in expected.schema])
    assert found.equals(expected.cast(plain))


def test_two_processes_write_the_same_bytes(written: Path, tmp_path: Path) -> None:
    told: list[int] = []
    files = write_raw(tmp_path, ROWS, 5, files=10, processes=2, progress=told.append)
    assert [path.name for path in files] == sorted(digests(written))
    assert digests(tmp_path) == digests(written)
    assert sum(told) == ROWS
    assert len(told) == 10


def test_finished_files_stay_and_missing_ones_come_back(written: Path) -> None:
    before = digests(written)
    kept, gone = written / "2020-03-04-000.parquet", written / "2020-03-05-000.parquet"
    stamp = kept.stat().st_mtime_ns
    gone.unlink()
    (written / "2020-03-05-000.unfinished").write_bytes(b"a part that a killed process left")
    write_raw(written, ROWS, 5, files=10)
    assert kept.stat().st_mtime_ns == stamp
    assert digests(written) == before


@pytest.mark.parametrize("change", ["seed", "rows", "damage"])
def test_other_files_are_not_replaced(change: str, tmp_path: Path) -> None:
    write_raw(tmp_path, 10_000, 0)
    first = tmp_path / "2020-03-02-000.parquet"
    rows, seed = {"seed": (10_000, 1), "rows": (10_001, 0), "damage": (10_000, 0)}[change]
    if change == "damage":
        first.write_bytes(first.read_bytes()[:-1])
    before = digests(tmp_path)
    with pytest.raises(UserError) as caught:
        write_raw(tmp_path, rows, seed)
    assert str(caught.value) == (
        f"{first}: exists and has other content; raw logs do not replace other files. Fix: choose another folder, or "
        "remove the file"
    )
    assert digests(tmp_path) == before


def test_too_few_files(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        write_raw(tmp_path / "d", 10_000, files=7)
    assert str(caught.value) == "files: got 7; each of the 8 days has at least one file. Fix: set more"
    assert not (tmp_path / "d").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        write_raw(tmp_path / "file", 10_000)
    assert str(caught.value) == (
        f"{tmp_path / 'file'}: could not be written (File exists); the folder must be writable, on a disk with "
        "enough free space. Fix: free some space and start again: finished files are kept"
    )
