"""A checkpoint from a stranger runs nothing, though its manifest fits: at every door it is refused, with its reason."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from ple_rec.checkpoint.manifest import MANIFEST, FileInfo
from ple_rec.checkpoint.metadata import parse_metadata
from ple_rec.cli import main
from ple_rec.errors import DataError
from tests.checkpoint.forging import (
    DOORS,
    KEY,
    SHOW,
    STEP,
    append,
    change_manifest,
    forge_value,
    read_metadata,
    write_metadata,
)

PLACES = ("metadata", "value", "tensor")


class Payload:
    """An object that makes a directory where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(here: Path, tmp_path: Path) -> Iterator[Path]:
    """Where a payload that runs leaves its directory; the working directory has the run, whole again for each test."""
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


def _forge(place: str, marker: Path) -> None:
    metadata, payload = read_metadata(), Payload(marker)
    if place == "tensor":
        forge_value(KEY, payload)
    elif place == "metadata":
        metadata.planner_data[KEY] = payload
        write_metadata(metadata)
    else:
        append(metadata, MetadataIndex("position.step"), payload)
        write_metadata(metadata)


def test_the_payload_runs_where_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("place", "door"),
    [(place, door) for place in PLACES for door in DOORS if place != "value" or door == "resume"],  # alone loads values
)
def test_no_door_runs_it(place: str, door: str, marker: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _forge(place, marker)
    assert main(["checkpoint", "verify", "tiny"]) == 0  # checksums do not tell a forger from the run
    capfd.readouterr()
    assert main(DOORS[door]) == 3
    said = capfd.readouterr().err
    assert "names posix.mkdir; a checkpoint holds tensors, numbers and text alone; " in said
    assert str(STEP) in said
    assert "Traceback" not in said
    assert "weights_only" not in said


def test_show_names_what_it_refuses(marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _forge("metadata", marker)
    assert main(["checkpoint", "show", "tiny"]) == 3
    assert capsys.readouterr().err.startswith(f"ple-rec: {STEP}/.metadata: names posix.mkdir; a checkpoint holds ")


@pytest.mark.parametrize("door", ["show", *DOORS])
def test_nothing_is_parsed_before_it_is_verified(door: str, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (STEP / ".metadata").write_bytes(pickle.dumps(Payload(marker)))
    assert main({"show": SHOW, **DOORS}[door]) == 3
    assert f"{STEP}/.metadata: " in (said := capsys.readouterr().err)
    assert "the manifest says " in said


def test_bytes_that_the_manifest_leaves_out_are_refused(marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (STEP / MANIFEST).read_text()
    change_manifest(lambda raw: raw["files"].pop(".metadata"))
    for argv in (SHOW, DOORS["evaluate"]):
        assert main(argv) == 3
        assert capsys.readouterr().err.startswith(f"ple-rec: {STEP}/.metadata: unverified; {MANIFEST} lists ")

    (STEP / MANIFEST).write_text(before)
    metadata, secret = read_metadata(), Path("secret").absolute()
    metadata.storage_data[MetadataIndex(KEY, [0])] = _StorageInfo(str(secret), 0, 8)
    write_metadata(metadata)
    for argv in (SHOW, DOORS["evaluate"]):
        assert main(argv) == 3
        assert capsys.readouterr().err.startswith(f"ple-rec: {STEP}/.metadata: names the file {str(secret)!r}; ")


@pytest.mark.parametrize(
    "name",
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch", "hub.load"),
        ("torch.serialization", "os.system"),
        ("torch.distributed.checkpoint.metadata", "os.system"),
        ("torch.distributed.checkpoint.metadata", "Metadata.__init__.__globals__"),
    ],
    ids=".".join,
)
def test_a_name_is_taken_as_a_whole(name: tuple[str, str]) -> None:
    def text(value: str) -> bytes:
        return pickle.BINUNICODE + len(value).to_bytes(4, "little") + value.encode()

    content = pickle.PROTO + b"\x04" + text(name[0]) + text(name[1]) + pickle.STACK_GLOBAL + pickle.STOP
    with pytest.raises(DataError, match="a checkpoint holds tensors, numbers and text alone") as refused:
        parse_metadata("x", content, {})
    assert refused.value.value == "names " + ".".join(name)


class _ByGetattr:
    def __init__(self, kind: object, name: str) -> None:
        self.made = getattr, (kind, name)

    def __reduce__(self) -> Any:
        return self.made


def test_getattr_gives_members_of_the_enumeration_alone() -> None:
    """Python 3.11.0 to 3.11.3 pickle these so."""
    member = _MEM_FORMAT_ENCODING.TORCH_CHANNELS_LAST
    content = pickle.dumps(Metadata({}, _ByGetattr(_MEM_FORMAT_ENCODING, member.name), {}))
    found: Any = parse_metadata("x", content, {}).planner_data
    assert found is member
    for kind, name in ((Metadata, "__init__"), (_MEM_FORMAT_ENCODING, "mro"), (torch.Size, "__reduce__")):
        with pytest.raises(DataError, match="x: unreadable"):
            parse_metadata("x", pickle.dumps(_ByGetattr(kind, name)), {})


def test_what_torch_writes_is_read() -> None:
    """Also types of tensors, layouts and formats of memory that no table here has."""
    properties = [
        TensorProperties(dtype, layout, memory_format=memory_format)
        for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.complex64, torch.bool)
        for layout in (torch.strided, torch.sparse_coo)
        for memory_format in (torch.contiguous_format, torch.channels_last)
    ]
    size, rows = torch.Size([3, 3]), [torch.Size([0, 0]), torch.Size([2, 0]), torch.Size([3, 0])]  # the last has none
    pieces = [ChunkStorageMetadata(at, torch.Size([n, 3])) for at, n in zip(rows, (2, 1, 0), strict=True)]
    tensors = {str(i): TensorStorageMetadata(each, size, pieces) for i, each in enumerate(properties)}
    written = Metadata(
        {**tensors, "value": BytesStorageMetadata()},
        storage_data={MetadataIndex(key, at): _StorageInfo("a", 4, 2, ["x"]) for key in tensors for at in rows}
        | {MetadataIndex("value"): _StorageInfo("a", 0, 1)},
    )
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert parse_metadata("x", pickle.dumps(written, protocol), {"a": FileInfo(6, None)}) == written


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", pickle.dumps({"a": 1}), b"\x80\x04" + b"(" * 9])
def test_what_is_no_metadata_is_unreadable(content: bytes) -> None:
    with pytest.raises(DataError, match=r"x: unreadable .*; it must list the content of the checkpoint"):
        parse_metadata("x", content, {})
