"""A dataset in an object store: the same batches, and the same words for the same damage, as on a disk.

pytest -m slow tests/data/test_remote.py     the same over Ceph's gateway; as root, on Debian
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

import ple_rec
from ple_rec.cli import main
from ple_rec.data import loader as loader_module
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.encode import Encoder
from ple_rec.data.integrity import digest_files
from ple_rec.data.loader import Loader
from ple_rec.data.vocabulary_index import raw_ids
from ple_rec.errors import DataError, UserError
from ple_rec.storage import location, write_bytes
from tests.data import oracle
from tests.data.test_loader import READ, CountedReads, wait_until
from tests.datasets import write_dataset

GROUPS = (40, 31, 17, 1, 52, 33, 29, 60, 8, 44, 25, 19)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remote") / "data"
    write_dataset(path, rows=sum(GROUPS), row_group_rows=GROUPS, parts=3)
    success = json.loads((path / "_SUCCESS").read_text())
    (path / "_SUCCESS").write_text(json.dumps(success | {"files": digest_files(path)}))
    return path


@pytest.fixture
def remote(disk: Path, address: str) -> str:
    """The address of the same dataset."""
    return uploaded(disk, address)


def uploaded(folder: Path, address: str) -> str:
    for file in folder.rglob("*"):
        if file.is_file():
            write_bytes(location(f"{address}/{file.relative_to(folder)}"), file.read_bytes())
    return address


def loader(path: str | Path, *, shards: int = 4, shuffle: bool = True, buffer_bytes: int = 2 << 30) -> Loader:
    dataset = DatasetDirectory(path)
    return Loader(
        dataset,
        "train",
        dataset.select(drop=[], tasks=[]),
        batch_size=16,
        rank=0,
        world_size=1,
        virtual_shards=shards,
        shuffle=shuffle,
        buffer_bytes=buffer_bytes,
    )


def bits(batches: Loader, start_step: int = 0) -> Iterator[list[bytes]]:
    return (oracle.bits(batch) for batch in batches.epoch(1, start_step))


@pytest.mark.parametrize("shards", [1, 4, 16])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("buffer_bytes", [2 << 30, 4000])
def test_batches_are_those_of_a_disk(disk: Path, remote: str, shards: int, shuffle: bool, buffer_bytes: int) -> None:
    """Whole row groups, and pieces of them where the buffer is small; from the first step on and from another."""
    for start_step in (0, 5):
        near, far = (
            list(bits(loader(path, shards=shards, shuffle=shuffle, buffer_bytes=buffer_bytes), start_step))
            for path in (disk, remote)
        )
        assert far == near


def test_a_dataset_of_any_scheme_is_read(disk: Path) -> None:
    address = uploaded(disk, f"memory://{disk.parent.name}")
    assert list(bits(loader(address))) == list(bits(loader(disk)))


@pytest.mark.parametrize("most", [1, 3])
def test_row_groups_are_read_ahead_as_far_as_memory_lets(
    remote: str, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A shard holds one row group, and so many more are on their way, however long the first batch is looked at."""
    monkeypatch.setattr(loader_module, "_MAX_READ_AHEAD", most)
    counted = CountedReads().install(monkeypatch)
    shards = 4
    batches = loader(remote, shards=shards).epoch(0)
    first = next(batches)
    wait_until(lambda: len(counted.calls) >= shards + most)
    time.sleep(0.1)  # for a read too many to begin
    assert len(counted.calls) == shards + most
    assert first.rows + sum(batch.rows for batch in batches) == sum(GROUPS)
    assert shards < counted.most
    small = CountedReads().install(monkeypatch)
    assert sum(batch.rows for batch in loader(remote, shards=shards, buffer_bytes=1).epoch(0)) == sum(GROUPS)
    starved = loader(remote, shards=shards, buffer_bytes=1)
    assert starved._limits([READ(starved, 0, 0)]) == (
        1,
        1,
    )  # a shard holds the rows of one step, and one piece is ahead
    # Shards hold pieces then. How many are alive at once depends on the threads and on row groups that end in one step.
    assert 4 * small.most_bytes < counted.most_bytes


def harm_page(part: Path) -> None:
    """Change a byte in the middle of a page."""
    chunk = pq.read_metadata(part).row_group(0).column(0)
    content = bytearray(part.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 8] ^= 1
    part.write_bytes(content)


def cut(part: Path) -> None:
    """Leave the last bytes out, as a copy that was stopped."""
    part.write_bytes(part.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [harm_page, cut, Path.unlink])
def test_damage_is_told_as_on_a_disk(disk: Path, tmp_path: Path, address: str, harm: Callable[[Path], None]) -> None:
    damaged = tmp_path / "data"
    shutil.copytree(disk, damaged)
    harm(damaged / "train" / "part-00001.parquet")
    uploaded(damaged, address)
    said = []
    for path in (str(damaged), address):
        with pytest.raises(DataError) as caught:
            list(bits(loader(path)))
        said.append(str(caught.value).replace(address, str(damaged)))
    assert said[0] == said[1]


def test_a_part_that_is_gone_or_replaced_while_it_is_read(disk: Path, remote: str) -> None:
    reading = loader(remote)
    part = location(f"{remote}/train/part-00001.parquet")
    part.unlink()
    with pytest.raises(DataError, match=r"part-00001\.parquet, row group \d: unreadable \(.*Path does not exist"):
        list(bits(reading))
    write_bytes(part, (disk / "train" / "part-00002.parquet").read_bytes())
    with pytest.raises(DataError, match=r"part-00001\.parquet, row group \d: unreadable \("):
        list(bits(reading))


def test_what_cannot_be_opened(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=rf"^{address}: no such directory; a dataset directory is needed\. Fix: make it"
    ):
        DatasetDirectory(address)
    write_bytes(location(f"{address}/logs.csv"), b"1")
    with pytest.raises(DataError, match=rf"^{address}: no schema.toml and no _SUCCESS; it is no dataset directory\."):
        DatasetDirectory(address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=rf"^{address}: cannot be reached \(Could not connect to the endpoint URL"):
        DatasetDirectory(address)


def test_verify_reads_it_to_the_last_byte(
    disk: Path, remote: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", remote]) == 0
    assert capsys.readouterr().out.startswith(f"{remote}: whole: ")
    damaged = tmp_path / "data"
    shutil.copytree(disk, damaged)
    for part in ("train/part-00000.parquet", "vocab/user.parquet"):
        harm_page(damaged / part)
        write_bytes(location(f"{remote}/{part}"), (damaged / part).read_bytes())
    assert main(["verify", remote]) == main(["verify", str(damaged)]) == 3
    said = capsys.readouterr().out.replace(remote, str(damaged)).splitlines()
    assert said[: len(said) // 2] == said[len(said) // 2 :]
    assert len(said) == 6


def test_vocabularies_are_kept_on_the_host(disk: Path, remote: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    local, schema = Encoder(disk, DatasetDirectory(disk).schema.sparse), DatasetDirectory(remote).schema
    far = Encoder(location(remote), schema.sparse)
    ids = {table.name: raw_ids(disk, table) for table in schema.tables}
    for feature in schema.sparse:
        if not feature.bag:
            values = ids[feature.table].slice(1, 5)
            assert far.rows(feature.name, values, "here").equals(local.rows(feature.name, values, "here"))
    copies = sorted(file.name for file in cache.glob("files/*/*.parquet"))
    assert copies == sorted(file.name for file in (disk / "vocab").glob("*.parquet"))
    indexes = list(cache.glob("files/*/*.index"))
    assert len(indexes) == len(copies)
    assert {table.name: raw_ids(location(remote), table) for table in schema.tables} == ids


def test_the_api_reads_it(disk: Path, remote: str) -> None:
    near, far = ple_rec.open_dataset(disk), ple_rec.open_dataset(remote)
    assert (far.fingerprint, str(far.path)) == (near.fingerprint, remote)
    assert far.read("valid").equals(near.read("valid"))
    assert far._repr_html_() == near._repr_html_().replace(str(disk), remote)
