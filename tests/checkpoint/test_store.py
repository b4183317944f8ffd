"""A checkpoint exists once it is whole: kills, full disks and damage leave the one before it as the latest."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ple_rec.checkpoint.inspect import finished_checkpoints
from ple_rec.checkpoint.load import load_state
from ple_rec.checkpoint.manifest import read_file_info, read_manifest
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.distributed.collectives import PeerError
from ple_rec.errors import DataError, UserError
from ple_rec.storage import write_checked
from tests.rank_processes import RankError
from tests.training.small import on_ranks, ranks_of, small_config, whole_tables, write_small

WRITTEN_BY = {"ranks": 2}
WRITES = "ple_rec.checkpoint.store.write_checked"


def _state(rank: int, step: int) -> dict[str, Any]:
    return {"shared": torch.full((5,), float(step)), f"own.{rank}": torch.tensor([rank, step]), "step": {"n": step}}


def _save(store: CheckpointStore, rank: int, step: int, *, best: bool = False) -> None:
    store.save(step, _state(rank, step), best=best, written_by=WRITTEN_BY)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def _round_trip(rank: int, world_size: int, directory: Path, asynchronous: bool) -> dict[str, Any]:
    store = CheckpointStore(directory, keep=2, asynchronous=asynchronous)
    kept = []
    for step, best in ((3, False), (6, True), (9, False), (12, False), (15, False)):
        state = _state(rank, step)
        store.save(step, state, best=best, written_by=WRITTEN_BY, file_texts={"config.toml": f"step = {step}"})
        for tensor in (state["shared"], state[f"own.{rank}"]):
            tensor.fill_(-1)  # the next step of a training
        assert store.pending == asynchronous
        store.wait()
        assert not store.pending
        dist.barrier()
        kept.append((store.steps(), [found.name if (found := store.find(n)) else None for n in ("latest", "best")]))
        dist.barrier()
    state = _state(rank, 0)
    latest = store.find("latest")
    assert latest is not None
    load_state(latest, state)
    return {
        "kept": kept,
        "state": state,
        "manifest": read_manifest(latest),
        "named": store.find("step-6"),
        "seconds": (store.total_save_seconds, store.blocked_seconds),
    }


@pytest.mark.parametrize("asynchronous", [False, True], ids=["waits", "asynchronous"])
def test_saved_values_come_back_and_the_newest_and_best_are_kept(asynchronous: bool, tmp_path: Path) -> None:
    for rank, result in enumerate(on_ranks(_round_trip, 2, tmp_path / "c", asynchronous)):
        assert result["kept"] == [
            ([3], ["step-3", None]),
            ([3, 6], ["step-6", "step-6"]),
            ([6, 9], ["step-9", "step-6"]),
            ([6, 9, 12], ["step-12", "step-6"]),
            ([6, 12, 15], ["step-15", "step-6"]),
        ]
        assert torch.equal(result["state"]["shared"], torch.full((5,), 15.0))
        assert result["state"][f"own.{rank}"].tolist() == [rank, 15]
        assert result["state"]["step"] == {"n": 15}
        assert (result["manifest"].step, result["manifest"].written_by) == (15, WRITTEN_BY)
        assert set(result["manifest"].files) == {".metadata", "__0_0.distcp", "__1_0.distcp", "config.toml"}
        for name, file in result["manifest"].files.items():
            assert read_file_info(tmp_path / "c" / "step-15" / name) == file
        assert (tmp_path / "c" / "step-15" / "config.toml").read_text() == "step = 15\n"
        assert min(result["seconds"]) > 0
        assert result["named"] == tmp_path / "c" / "step-6"
    assert _names(tmp_path / "c") == ["best", "latest", "step-12", "step-15", "step-6"]


def _killed(rank: int, world_size: int, directory: Path, before: str) -> None:
    store = CheckpointStore(directory)
    _save(store, rank, 3, best=True)

    def die_before(file: Path, content: bytes, check: Callable[[], None]) -> None:
        if file.name == before:
            os.kill(os.getpid(), signal.SIGKILL)
        write_checked(file, content, check)

    pytest.MonkeyPatch().setattr(WRITES, die_before)
    _save(store, rank, 6, best=True)


def _goes_on(rank: int, world_size: int, directory: Path) -> tuple[list[int], list[int], int]:
    store = CheckpointStore(directory)
    before = store.steps()
    dist.barrier()
    _save(store, rank, 6)
    state = _state(rank, 0)
    load_state(directory / "step-6", state)
    dist.barrier()
    return before, store.steps(), state["step"]["n"]


@pytest.mark.parametrize(
    ("before", "steps", "best"),
    [("manifest.json", [3], "step-3"), ("best", [3, 6], "step-3"), ("latest", [3, 6], "step-6")],
)
def test_a_kill_leaves_the_earlier_one_as_the_latest(before: str, steps: list[int], best: str, tmp_path: Path) -> None:
    with pytest.raises(RankError, match="ended without an answer, exit code -9"):
        on_ranks(_killed, 2, tmp_path, before)
    assert (tmp_path / "step-6" / ".metadata").exists()  # the data are whole, and yet:
    store = CheckpointStore(tmp_path)
    assert store.find("latest") == tmp_path / "step-3"
    assert store.find("best") == tmp_path / best
    assert on_ranks(_goes_on, 2, tmp_path) == [(steps, [3, 6], 6)] * 2
    assert store.find("latest") == tmp_path / "step-6"


def _every(rank: int, world_size: int, directory: Path) -> list[int]:
    store = CheckpointStore(directory, keep=1, keep_every=4)
    for step in (2, 4, 6, 8, 10, 12):
        _save(store, rank, step, best=step == 2)
    return store.steps()


def test_every_nth_is_kept(tmp_path: Path) -> None:
    assert on_ranks(_every, 1, tmp_path) == [[2, 4, 8, 12]]


def _full_disk(rank: int, world_size: int, directory: Path, where: str, asynchronous: bool) -> list[str]:
    store = CheckpointStore(directory, asynchronous=asynchronous)
    _save(store, rank, 3)
    store.wait()
    state = _state(rank, 6) | {f"large.{rank}": torch.ones(1 << 18)}
    if where == "data" and rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))  # a real error in a real write
    if where == "manifest":

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        pytest.MonkeyPatch().setattr(WRITES, full)
    if where == "directory" and rank == 0:
        (directory / "step-6").write_text("in the way")
    said = []
    try:
        store.save(6, state, best=True, written_by=WRITTEN_BY)
        assert asynchronous
        _save(store, rank, 9)
    except (UserError, PeerError) as error:
        said.append(f"{type(error).__name__}: {error}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    state = _state(rank, 0)
    load_state(directory / "step-3", state)
    return [*said, str(state["step"]["n"])]


@pytest.mark.parametrize(
    ("where", "cause", "peer", "asynchronous"),
    [
        ("data", "[enforce fail at inline_container.cc:", False, False),
        ("data", "[enforce fail at inline_container.cc:", False, True),
        ("manifest", "[Errno 28] No space left on device", True, False),
        ("manifest", "[Errno 28] No space left on device", True, True),
        ("directory", "[Errno 20] Not a directory: ", True, False),
    ],
)
def test_a_full_disk_is_said_on_every_rank_and_costs_no_checkpoint(
    where: str, cause: str, peer: bool, asynchronous: bool, tmp_path: Path
) -> None:
    results = on_ranks(_full_disk, 2, tmp_path, where, asynchronous)
    first = results[0][0]
    assert first.startswith(f"UserError: {tmp_path}/step-6: cannot be written ({cause}")
    assert re.search(r"\), with [\d,]+ MiB free; ", first)
    assert first.endswith(
        "; a checkpoint needs room and permission; earlier checkpoints are untouched. Fix: free space or correct the "
        "permission, then run again with --resume"
    )
    # Each rank looks for itself how much is free, while other programs write.
    free = re.compile(r"[\d,]+ MiB free")
    assert free.sub("", results[1][0]) == ("PeerError: rank 0 failed with exit code 2" if peer else free.sub("", first))
    assert [result[1:] for result in results] == [["3"], ["3"]]
    store = CheckpointStore(tmp_path)
    assert (store.steps(), store.find("latest")) == ([3], tmp_path / "step-3")
    assert where != "data" or not (tmp_path / "step-6").exists(), "what was written takes the room that is missing"


def _apart(rank: int, world_size: int, folder: Path) -> list[str]:
    """Ranks whose hosts have a folder of the same name each."""
    own = folder / str(rank)
    own.mkdir()
    os.chdir(own)
    store = CheckpointStore(Path("ck"))
    with pytest.raises((UserError, PeerError)) as caught:
        _save(store, rank, 3)
    return [str(caught.value), str(store.steps())]


def test_files_that_rank_0_does_not_see_are_no_checkpoint(tmp_path: Path) -> None:
    first, second = on_ranks(_apart, 2, tmp_path)
    assert first[0] == (
        "ck/step-3/__1_0.distcp: missing for rank 0, or of another size than its rank wrote; all "
        "hosts must write a checkpoint to the same storage. Fix: give a --run-dir or checkpoint.path on storage that "
        "every host sees"
    )
    assert (second[0], first[1], second[1]) == ("rank 0 failed with exit code 2", "[]", "[]")


def _leftovers(rank: int, world_size: int, directory: Path) -> list[str]:
    store = CheckpointStore(directory, keep=1)
    _save(store, rank, 3)
    (directory / "step-4").mkdir()  # of a save that was killed
    (directory / "step-4" / "__0_0.distcp").write_bytes(b"half")
    (directory / "step-x").mkdir()  # nobody's
    with pytest.MonkeyPatch.context() as patch:

        def refuses(where: Path) -> None:
            raise OSError(errno.EACCES, "no")

        patch.setattr("ple_rec.checkpoint.listing.remove_tree", refuses)
        _save(store, rank, 6)  # it stands, whatever becomes of the others
    assert store.find("latest") == directory / "step-6"
    _save(store, rank, 9)
    return _names(directory)


def test_what_is_left_of_other_saves_goes_and_cannot_harm(tmp_path: Path) -> None:
    assert on_ranks(_leftovers, 1, tmp_path) == [["latest", "step-9", "step-x"]]


def _saved(rank: int, world_size: int, directory: Path) -> None:
    _save(CheckpointStore(directory), rank, 3)


def _misfits(rank: int, world_size: int, path: Path) -> list[str]:
    states = [
        {"shared": torch.zeros(4)},
        {"shared": torch.zeros(5), "gate": torch.zeros(2)},
    ]
    said = []
    for state in states:
        with pytest.raises(DataError) as caught:
            load_state(path, state)
        said.append(str(caught.value))
    fine = {"shared": torch.zeros(5)}
    load_state(path, fine)
    return [*said, str(fine["shared"].tolist())]


def test_another_model_is_refused_in_words(tmp_path: Path) -> None:
    on_ranks(_saved, 2, tmp_path)
    rest = (
        "; model, tables and optimizers are those of the run that wrote it. Fix: use the configuration saved in the "
        "run's config.toml"
    )
    head = f"{tmp_path}/step-3: it does not fit this model "
    expected = [
        f"{head}(Size mismatch between saved torch.Size([5]) and current: torch.Size([4]) for shared){rest}",
        f"{head}(Missing key in checkpoint state_dict: gate.){rest}",
        "[3.0, 3.0, 3.0, 3.0, 3.0]",
    ]
    assert on_ranks(_misfits, 2, tmp_path / "step-3") == [expected, expected]


def _damaged(rank: int, world_size: int, path: Path) -> list[str]:
    data, manifest, said = path / "__0_0.distcp", path / "manifest.json", []

    def refused() -> None:
        with pytest.raises(DataError) as caught:
            load_state(path, {})
        said.append(str(caught.value))

    whole = data.read_bytes()
    data.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])  # of the same size
    refused()
    data.write_bytes(whole[:-1])
    refused()
    data.unlink()
    refused()
    for text in ("{", "[]", '{"files": 3}'):
        manifest.write_text(text)
        refused()
    return said


def test_damage_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    on_ranks(_saved, 1, tmp_path)
    path = tmp_path / "step-3"
    data = path / "__0_0.distcp"
    size, crc = data.stat().st_size, f"{zlib.crc32(data.read_bytes()):08x}"
    rest = "Fix: use another checkpoint of the run (`latest`, `best` and `step-*` beside it)"
    changed, cut, gone, *unreadable = on_ranks(_damaged, 1, path)[0]
    assert re.fullmatch(rf"{data}: CRC-32 \w+; the manifest says {crc}; its bytes changed. {re.escape(rest)}", changed)
    assert cut == f"{data}: {size - 1} bytes; the manifest says {size} bytes. {rest}"
    assert gone == f"{data}: missing; the manifest says {size} bytes. {rest}"
    assert len(unreadable) == 3
    for text in unreadable:
        assert re.search(r"manifest\.json: unreadable \(.*\); it must list the files of the checkpoint\.", text)


@pytest.mark.parametrize("content", [bytes(range(128, 256)), b"", b"step-ten\n", b"../../elsewhere\n"])
@pytest.mark.parametrize("name", ["latest", "best"])
def test_a_pointer_of_other_bytes_is_damage(name: str, content: bytes, tmp_path: Path) -> None:
    for step in (2, 10):
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}" / "manifest.json").touch()
    (tmp_path / name).write_bytes(content)
    for read in (lambda: CheckpointStore(tmp_path).find(name), lambda: finished_checkpoints(tmp_path)):
        with pytest.raises(DataError) as caught:
            read()
        assert (caught.value.place, caught.value.exit_code) == (str(tmp_path / name), 3)
        assert caught.value.fix == "write one of these into it: step-2, step-10"


def test_pointers_and_names(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.find("latest") is None
    assert store.steps() == []
    for step in (2, 10):
        (tmp_path / "checkpoints" / f"step-{step}").mkdir(parents=True)
        (tmp_path / "checkpoints" / f"step-{step}" / "manifest.json").touch()
    (tmp_path / "checkpoints" / "latest").write_text("step-10\n")
    (tmp_path / "checkpoints" / "best").write_text("step-4\n")
    assert store.steps() == [2, 10]
    assert store.find("latest") == tmp_path / "checkpoints" / "step-10"
    assert store.find("best") is None
    assert store.find("step-2") == tmp_path / "checkpoints" / "step-2"
    assert store.find("step-3") is None


def _model(rank: int, world_size: int, data: Path, sharding: str, path: Path, write: bool) -> dict[str, Any]:
    from ple_rec.training.context import build_context

    config = small_config(data, {"embeddings": {"dim": 4, "sharding": sharding}, "seed": 3 if write else 8})
    job = build_context(config, ranks_of(rank, world_size))
    state = {"model": job.model.state_dict()}
    if write:
        CheckpointStore(path.parent).save(3, state, best=False, written_by={})
    else:
        load_state(path, state)
        job.model.load_state_dict(state["model"])
    return {
        name: p.detach().clone() for name, p in job.unwrapped_model.named_parameters() if "embedd" not in name
    } | whole_tables(job.model)


def test_another_number_of_ranks_and_sharding_can_load_a_model(tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    path = tmp_path / "checkpoints" / "step-3"
    saved = on_ranks(_model, 2, data, "row_wise", path, True)[0]
    for world_size, sharding in ((1, "table_wise"), (3, "row_wise"), (3, "table_wise")):
        for loaded in on_ranks(_model, world_size, data, sharding, path, False):
            assert loaded.keys() == saved.keys()
            assert [name for name in saved if not torch.equal(loaded[name], saved[name])] == []
