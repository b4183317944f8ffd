"""Metadata of a stranger: tensors that are not whole, or lie where nothing is, are refused and never left random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from ple_rec.checkpoint.metadata import _covers_exactly_once
from ple_rec.cli import main
from tests.checkpoint.forging import DOORS, KEY, SHOW, STEP, append, change_manifest, read_metadata, run, write_metadata

TABLE = "model.embeddings.embedding_bags.user.weight"


def _pieces(*rows: tuple[int, int]) -> list[ChunkStorageMetadata]:
    return [ChunkStorageMetadata(torch.Size([at, 0]), torch.Size([n, 4])) for at, n in rows]


def _a_value(metadata: Any) -> None:
    metadata.state_dict_metadata[KEY] = BytesStorageMetadata()
    append(metadata, MetadataIndex(KEY), 3.0)


def _another_type(dtype: torch.dtype) -> Callable[[Any], None]:
    def change(metadata: Any) -> None:
        metadata.state_dict_metadata[KEY].properties = TensorProperties(dtype)

    return change


def _set(key: str, **values: Any) -> Callable[[Any], None]:
    return lambda metadata: vars(metadata.state_dict_metadata[key]).update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_a_value, f"does not fit this model ({KEY} is a value, not a tensor of floating numbers)"),
        (_another_type(torch.complex64), f"({KEY} is a tensor of complex numbers, not a tensor of floating numbers)"),
        (_another_type(torch.int64), f"({KEY} is a tensor of whole numbers, not a tensor of floating numbers)"),
        (_set(KEY, chunks=[]), "is neither a value nor a tensor that its pieces cover"),
        (_set(TABLE, chunks=_pieces((0, 49))), "is neither a value nor a tensor that its pieces cover"),
    ],
    ids=["value", "complex", "integers", "no pieces", "a gap"],
)
@pytest.mark.parametrize("door", DOORS)
def test_no_weight_stays_random(
    change: Callable[[Any], None], said: str, door: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    metadata = read_metadata()
    change(metadata)
    write_metadata(metadata)
    code, err = run(DOORS[door], capfd)
    assert (code, said in err, "Traceback" in err) == (3, True, False)


@pytest.mark.parametrize(
    ("size", "pieces", "whole"),
    [
        ([], [([], [])], True),
        ([], [], False),
        ([0, 4], [], True),
        ([4, 4], [([0, 0], [4, 4])], True),
        ([4, 4], [([0, 0], [2, 4]), ([2, 0], [2, 4]), ([4, 0], [0, 4])], True),
        ([4, 4], [([i, j], [2, 2]) for i in (0, 2) for j in (0, 2)], True),
        ([4, 4], [([0, 0], [3, 4]), ([2, 0], [2, 4])], False),  # an overlap
        ([4, 4], [([0, 0], [2, 4]), ([0, 0], [2, 4])], False),  # the right volume
        ([4, 4], [([0, 0], [2, 4]), ([3, 0], [2, 4])], False),
        ([4, 4], [([-1, 0], [4, 4]), ([3, 0], [1, 4])], False),
        ([4, 4], [([0, 0], [6, 4]), ([6, 0], [-2, 4])], False),
        ([3, 3], [([0, 0], [2, 1]), ([0, 1], [1, 2]), ([1, 2], [2, 1]), ([2, 0], [1, 2]), ([1, 1], [1, 1])], True),
    ],
)
def test_pieces_make_up_a_whole(size: list[int], pieces: list[tuple[list[int], list[int]]], whole: bool) -> None:
    chunks = [ChunkStorageMetadata(torch.Size(at), torch.Size(of)) for at, of in pieces]
    assert _covers_exactly_once(torch.Size(size), chunks) == whole


def _of(metadata: Any) -> Any:
    return metadata.state_dict_metadata


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: setattr(metadata, "state_dict_metadata", []),
        lambda metadata: setattr(metadata, "storage_data", None),
        lambda metadata: _of(metadata).update({1: BytesStorageMetadata()}),
        lambda metadata: _of(metadata).update({"a": 1}),
        lambda metadata: _of(metadata).update({"a": BytesStorageMetadata()}),  # in no file
        _set(KEY, properties=None),
        _set(KEY, size=4),
        _set(KEY, size=(4,)),
        _set(KEY, size=torch.Size([2] * 60)),
        _set(KEY, chunks=[None]),
        _set(KEY, chunks=[ChunkStorageMetadata((0,), (2,))]),  # type: ignore[arg-type]  # no torch.Size, as a forger may have it
        _set(KEY, chunks=[ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2, 1]))]),
    ],
)
def test_what_no_run_describes_is_unreadable(
    change: Callable[[Any], None], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    metadata = read_metadata()
    change(metadata)
    write_metadata(metadata)
    code, said = run(SHOW, capfd)
    assert (code, said.startswith(f"ple-rec: {STEP}/.metadata: unreadable (")) == (3, True)


@pytest.mark.parametrize(
    ("name", "number"),
    [("offset", 1 << 62), ("offset", -5), ("offset", 0.5), ("length", 0), ("length", -1), ("length", 1 << 62)],
)
def test_nothing_is_read_beside_a_file(name: str, number: float, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    metadata = read_metadata()
    info = next(info for index, info in metadata.storage_data.items() if index.fqn == KEY)
    setattr(info, name, number)
    write_metadata(metadata)
    for argv in (SHOW, DOORS["evaluate"]):
        code, said = run(argv, capfd)
        assert (code, f"{STEP}/.metadata: unreadable (bytes " in said) == (3, True)


def test_the_size_of_the_largest_tensor_is_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = read_metadata()
    size = torch.Size([1 << 40, 1 << 40])
    _of(metadata)["large"] = TensorStorageMetadata(
        TensorProperties(torch.float32), size, [ChunkStorageMetadata(torch.Size([0, 0]), size)]
    )
    append(metadata, MetadataIndex("large", [0, 0]), 0)
    write_metadata(metadata)
    assert main(SHOW) == 0
    assert "TiB of tensors" in capsys.readouterr().out


def test_no_terminal_obeys_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = read_metadata()
    _of(metadata)["\x1b[2Jkey\nline"] = BytesStorageMetadata()
    append(metadata, MetadataIndex("\x1b[2Jkey\nline"), 0)
    write_metadata(metadata)
    assert main(SHOW) == 0
    assert r"\x1b[2Jkey\nline" in capsys.readouterr().out

    change_manifest(lambda raw: raw["written_by"].update(dataset="\x1b[2Jother"))
    assert main(DOORS["evaluate"]) == 2
    assert r"\x1b[2Jother" in capsys.readouterr().err
