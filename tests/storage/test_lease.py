"""Leases of prefixes of object stores: one holder at a time, whatever stops, clocks and lost answers do.

pytest -m slow tests/storage/test_lease.py     the same over Ceph's gateway; as root, on Debian
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ple_rec.checkpoint.listing import finished_steps, pointer_target
from ple_rec.checkpoint.manifest import MANIFEST, FileInfo, Manifest
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.errors import UserError
from ple_rec.storage import Remote, StoreError, location, names_in, write_text
from ple_rec.storage import lease as leases
from ple_rec.storage.lease import LEASE_SECONDS, Holder, Lease, read_holder
from ple_rec.storage.store import changed_error, objects_at

WRITERS = ("one", "two")


def _remote(address: str) -> Remote:
    where = location(address)
    assert isinstance(where, Remote)
    return where


def _held(found: Lease | Holder) -> Lease:
    assert isinstance(found, Lease)
    return found


def test_a_lease_has_one_holder_and_ends(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 2.0)
    run = _remote(f"{address}/run")
    assert read_holder(run) is None
    first = _held(Lease.acquire(run, "one"))
    held = Lease.acquire(run, "two")
    assert isinstance(held, Holder)
    assert (held.name, held.is_live) == ("one", True)
    time.sleep(4)  # it is renewed
    assert isinstance(Lease.acquire(run, "two"), Holder)
    first.check()
    first._done.set()  # as of a process that was stopped or killed
    second = _held(Lease.acquire(run, "two", wait=10))
    with pytest.raises(UserError, match=rf"^{run}: in use by process two, whose lease holds for \d s or more; one "):
        first.check()
    first.give_back()  # which is no more its own
    second.check()
    second.give_back()
    given = read_holder(run)
    assert given is not None
    assert not given.is_live
    third = _held(Lease.acquire(run, "three"))
    third.give_back()
    assert names_in(run / ".lease") == ["lease.json"]


def test_of_several_processes_one_takes_a_lease(address: str) -> None:
    run = _remote(f"{address}/run")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: Lease.acquire(run, str(i)), range(8)))
    (held,) = [each for each in found if isinstance(each, Lease)]
    held.check()
    held.give_back()


def test_a_lease_whose_object_is_removed_is_lost(address: str) -> None:
    run = _remote(f"{address}/run")
    lease = _held(Lease.acquire(run, "one"))
    (run / ".lease" / "lease.json").unlink()
    with pytest.raises(UserError, match=f"^{run}: in use by process "):
        lease.check()
    lease.give_back()


class FakeStore:
    """Store of one object with a clock of its own, which may lose the answer to a writing."""

    def __init__(self) -> None:
        self.now = 0.0
        self.object: tuple[bytes, str, float] | None = None  # content, tag, time
        self.lost: str | None = None  # what the client tells of the next writing: "changed" or "gone"

    def put(self, where: Remote, content: bytes, *, tag: str | None = None, create: bool = False) -> str:
        if create and self.object is not None:
            raise FileExistsError
        if tag is not None and (self.object is None or self.object[1] != tag):
            raise changed_error(where)
        self.object = content, uuid.uuid4().hex, self.now
        lost, self.lost = self.lost, None
        if lost == "changed":  # The client has sent the writing again, since the answer to the first did not come.
            raise FileExistsError if create else changed_error(where)
        if lost == "gone":
            raise StoreError.of(str(where), OSError("the connection was lost"))
        return self.object[1]

    def look(self, where: Remote) -> tuple[str, float]:
        if self.object is None:
            raise FileNotFoundError
        return self.object[1], float(int(self.now) - int(self.object[2]))


class Writers(RuleBasedStateMachine):
    """Two processes that train the same run and a reader; each may stand still for any time.

    What a process does between one question for the lease and the change behind it is one step here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.store = FakeStore()
        self.run = _remote(f"memory://{uuid.uuid4().hex}/run")
        self.lease: dict[str, Lease] = {}
        self.kept: dict[str, CheckpointStore] = {}
        self.step: dict[str, int] = {}
        self.saved: list[int] = []
        self.owner: str | None = None  # last that has taken the lease

    @initialize()
    def fake(self) -> None:
        store, read = self.store, leases._read_name_and_token

        def content(file: Remote) -> tuple[str, str]:
            if store.object is None:
                raise FileNotFoundError
            return read(SimpleNamespace(read_bytes=lambda: store.object[0] if store.object else b""))  # type: ignore[arg-type]

        self.patch.setattr(leases, "put", store.put)
        self.patch.setattr(leases, "tag_and_age", store.look)
        self.patch.setattr(leases, "tag_of", lambda file: store.look(file)[0])
        self.patch.setattr(leases, "_read_name_and_token", content)
        self.patch.setattr(leases.Lease, "_renew_until_done", lambda _: None)
        self.patch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: store.now, sleep=lambda _: None))

    def teardown(self) -> None:
        self.patch.undo()

    @rule(seconds=st.floats(0.1, 2 * LEASE_SECONDS))
    def pass_time(self, seconds: float) -> None:
        self.store.now += seconds

    @rule(lost=st.sampled_from(["changed", "gone"]))
    def lose_an_answer(self, lost: str) -> None:
        self.store.lost = lost

    @rule(name=st.sampled_from(WRITERS))
    def acquire(self, name: str) -> None:
        if name in self.lease:
            return
        before = self.store.object
        try:
            found = Lease.acquire(self.run, name)
        except StoreError:  # The answer was lost. The process ends, and so will the lease that it has taken.
            self.owner = None if self.store.object is not before else self.owner
            return
        if isinstance(found, Holder):
            assert found.is_live
            return
        if before is not None and self.owner in self.lease:  # It was held, so it must have ended by the store's clock.
            assert self.store.now - before[2] >= LEASE_SECONDS
        self.lease[name], self.owner = found, name
        self.kept[name] = CheckpointStore(self.run / "checkpoints", keep=2, check_may_write=found.check)
        steps = self.kept[name].steps()
        self.step[name] = steps[-1] if steps else 0

    @rule(name=st.sampled_from(WRITERS))
    def renew(self, name: str) -> None:
        if name in self.lease:
            try:
                self.lease[name]._renew()
            except StoreError:
                pass
            except UserError:
                assert self.owner != name
                self._ends(name)

    @rule(name=st.sampled_from(WRITERS))
    def save(self, name: str) -> None:
        if name not in self.lease:
            return
        step, kept = self.step[name] + 1, self.kept[name]
        path = kept.directory / f"step-{step}"
        try:
            kept._prepare_directory(path)
            write_text(path / "shard", name)
            kept._commit(path, Manifest(step, {}, {"shard": FileInfo.from_text(f"{name}\n")}), {}, best=False)
        except StoreError:
            return  # The store was away; the process tries the step again.
        except UserError as error:
            if "cannot be written" not in error.value:  # as above, where the store was asked for the lease
                assert self.owner != name
                self._ends(name)
            return
        assert self.owner == name
        self.step[name] = step
        self.saved.append(step)

    @rule(name=st.sampled_from(WRITERS))
    def give_back(self, name: str) -> None:
        if name in self.lease:
            with suppress(StoreError):
                self.lease[name].give_back()
            self._ends(name)

    def _ends(self, name: str) -> None:
        del self.lease[name], self.kept[name], self.step[name]

    @precondition(lambda self: self.saved)
    @invariant()
    def nothing_that_is_saved_vanishes(self) -> None:
        before = {(found.name, found.size) for found in objects_at(self.run)}
        steps, latest = finished_steps(self.run / "checkpoints"), pointer_target(self.run / "checkpoints", "latest")
        assert self.saved[-1] in steps
        assert latest == f"step-{self.saved[-1]}"
        for step in steps:
            assert (self.run / "checkpoints" / f"step-{step}" / MANIFEST).is_file()
            assert (self.run / "checkpoints" / f"step-{step}" / "shard").is_file()
        assert self.saved == sorted(set(self.saved))
        assert {(found.name, found.size) for found in objects_at(self.run)} == before  # as the reader found it


Writers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWriters = Writers.TestCase


@pytest.fixture(autouse=True)
def _memory_is_empty() -> Iterator[None]:
    from fsspec.implementations.memory import MemoryFileSystem

    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
