"""Hosts that do not share run directory and dataset are named on every rank, and nothing is left behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch

from ple_rec.config.load import load_schema
from ple_rec.distributed.process_group import Ranks
from ple_rec.errors import UserError
from ple_rec.training.storage_check import check_storage
from tests.training.small import on_ranks, write_small


def _check(rank: int, world_size: int, run_dirs: list[Path], datas: list[Path]) -> str:
    """What a rank, on a host of its own, is told; its host sees another directory under the same path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: f"host-{rank}")
        ranks = Ranks(rank, world_size, 1, torch.device("cpu"), 1)
        os.chdir(run_dirs[rank])
        try:
            check_storage([Path("run")], str(datas[rank]), ranks, wait_seconds=1.0)
        except UserError as error:
            return str(error)
    return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` and `b` with a folder `run` each, `same` and `other` with datasets."""
    folder = tmp_path_factory.mktemp("storage")
    for name in ("a", "b"):
        (folder / name / "run").mkdir(parents=True)
    write_small(folder / "same")
    write_small(folder / "other", bag=False)
    return folder


def test_hosts_that_share_all(folder: Path) -> None:
    assert on_ranks(_check, 2, [folder / "a"] * 2, [folder / "same"] * 2) == ["", ""]
    assert list((folder / "a" / "run").iterdir()) == []


def test_a_host_with_another_run_directory_is_named(folder: Path) -> None:
    said = on_ranks(_check, 2, [folder / "a", folder / "b"], [folder / "same"] * 2)
    assert (
        said
        == [
            "run: a file that rank 0 writes there on host-0 is not seen on host-1 after 1 s; all hosts of a job "
            "share its run directory and its checkpoints. Fix: give a --run-dir, and checkpoint.path, on storage that "
            "every host mounts"
        ]
        * 2
    )
    assert [list((folder / name / "run").iterdir()) for name in ("a", "b")] == [[], []]


def test_a_host_with_another_dataset_or_none_is_named(folder: Path) -> None:
    for name, why in (("nix", "no such directory"), ("other", load_schema(folder / "other").fingerprint)):
        said = on_ranks(_check, 2, [folder / "a"] * 2, [folder / "same", folder / name])
        main = load_schema(folder / "same").fingerprint
        assert said[0].startswith(f"data.path {folder / 'same'}: is {main} on host-0, but not on ")
        assert (
            f" but not on host-1 ({why}); all hosts of a job read the same dataset, with the same fingerprint."
            in said[1]
        )
