"""Ownership of a prefix of an object store, which has no locks: it lasts while its holder renews it.

The object `<prefix>/.lease/lease.json` names the holder, and the store counts the seconds since it was last written.
A holder renews it on the condition that nobody else has written it since, and whoever takes it over writes it on the
condition that it was not renewed since it was looked at. So there is one holder at a time, whatever the clocks of hosts
say, and a holder that was stopped for a while finds out that it has lost the lease before it changes anything.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from ple_rec.errors import UserError
from ple_rec.storage.door import StoreError
from ple_rec.storage.location import Remote
from ple_rec.storage.store import put, tag_and_age, tag_of

SECONDS = 20.0  # A lease holds for this time after it was written.
_RENEWALS = 4  # A holder writes it so often in that time.
_POLL_SECONDS = 0.5
_ROUNDING = 1.0  # Stores tell times in whole seconds.
LEASE = ".lease"  # Folder of the lease's object below the prefix.
_FILE = "lease.json"


@dataclass(frozen=True)
class Holder:
    """Holder of a lease, as others see it.

    Args:
        name: Text that tells a person who holds it.
        token: Random text of the holder's own; empty once the lease was given back.
        seconds_left: Seconds for which the lease holds unless it is renewed; at most 0 once it has ended.
    """

    name: str
    token: str
    seconds_left: float

    @property
    def is_live(self) -> bool:
        """Whether the lease still holds."""
        return self.seconds_left > 0


def holder_of(prefix: Remote) -> Holder | None:
    """Return the holder of the lease of a prefix, live or not; None if there was never one.

    Raises:
        StoreError: The store cannot be read.
    """
    found = _look(prefix / LEASE / _FILE)
    return None if found is None else found[1]


def _look(file: Remote) -> tuple[str, Holder] | None:
    """Return the tag of a lease and its holder; None if it is not there."""
    try:
        tag, age = tag_and_age(file)
        name, token = _read(file)
    except FileNotFoundError:
        return None
    return tag, Holder(name, token, SECONDS + _ROUNDING - age if token else 0.0)


def _read(file: Remote) -> tuple[str, str]:
    """Return name and token of the holder; those of nobody if another program has written the object."""
    try:
        content: Any = json.loads(file.read_bytes())
        return str(content["holder"]), str(content["token"])
    except (ValueError, LookupError, TypeError):
        return "?", "?"


class Lease:
    """Lease that this process holds and renews, in a thread of its own, until it is given back.

    Args:
        prefix: Prefix that the lease covers.
        holder: Text that tells a person who holds it.
        token: Random text that tells this holder from all others.
        tag: Tag of the lease's object, which was just written.
    """

    def __init__(self, prefix: Remote, holder: str, token: str, tag: str) -> None:
        self._prefix, self._file = prefix, prefix / LEASE / _FILE
        self._holder, self._token, self._tag = holder, token, tag
        self._renewed = time.monotonic()
        self._count = 0
        self._lock = threading.Lock()  # A check waits until a renewal knows the new tag.
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_done, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, prefix: Remote, holder: str, wait: float = 0.0) -> Lease | Holder:
        """Take the lease of a prefix, or return its holder.

        Args:
            prefix: Prefix that the lease covers.
            holder: Text that tells a person who takes it.
            wait: Seconds that another holder has to give it back, or to renew it no more.

        Raises:
            StoreError: The store cannot be read or written.
        """
        end, token, file = time.monotonic() + wait, token_hex(8), prefix / LEASE / _FILE
        content = _content(holder, token, 0)
        while True:
            found = _look(file)
            if found is not None and found[1].token == token:  # It was written, and the answer was lost.
                return cls(prefix, holder, token, found[0])
            if found is None or not found[1].is_live:
                try:
                    tag = put(file, content, create=True) if found is None else put(file, content, tag=found[0])
                    return cls(prefix, holder, token, tag)
                except FileExistsError:
                    continue
                except StoreError as error:
                    if error.kind != "changed":
                        raise
                    continue
            if time.monotonic() >= end:
                return found[1]
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Do nothing if this process still holds the lease; ask right before each change of what it covers.

        Raises:
            UserError: Another process has taken it.
            StoreError: The store cannot be read, so nobody knows.
        """
        with self._lock:
            if time.monotonic() - self._renewed >= SECONDS / 2:  # This process was stopped, or the store was away.
                self._renew()
            elif not self._is_own():
                raise self._lost()

    def give_back(self) -> None:
        """Let others take the prefix at once.

        Raises:
            StoreError: The store cannot be written; the lease then ends by itself.
        """
        self._done.set()
        self._thread.join()
        try:
            put(self._file, _content(self._holder, "", self._count), tag=self._tag)
        except StoreError as error:
            if error.kind != "changed":  # Another process holds it.
                raise

    def _renew_until_done(self) -> None:
        while not self._done.wait(SECONDS / _RENEWALS):
            try:
                with self._lock:
                    self._renew()
            except StoreError:  # The store is away for a moment; the next turn tries again.
                continue
            except UserError:
                return

    def _renew(self) -> None:
        """Write the lease again; `check` says what is raised."""
        asked = time.monotonic()
        self._count += 1
        try:
            self._tag = put(self._file, _content(self._holder, self._token, self._count), tag=self._tag)
        except StoreError as error:
            if error.kind != "changed":
                raise
            if not self._is_own():
                raise self._lost() from error
        self._renewed = asked

    def _is_own(self) -> bool:
        """Return True if the object is as we wrote it last, or as a writing of ours whose answer was lost."""
        try:
            tag = tag_of(self._file)
            if tag != self._tag and _read(self._file)[1] == self._token:
                self._tag = tag
        except FileNotFoundError:
            return False
        return tag == self._tag

    def _lost(self) -> UserError:
        return in_use(self._prefix, holder_of(self._prefix) or Holder("?", "", 0.0))


def in_use(prefix: Remote, holder: Holder) -> UserError:
    """Return the error of a prefix that another process holds.

    Args:
        prefix: Prefix that the lease covers.
        holder: Holder of the lease.
    """
    left = max(1, round(holder.seconds_left))
    return UserError(
        str(prefix),
        f"in use by process {holder.name}, for {left} s or more",
        "one process at a time writes there",
        "wait for it, stop it, or write somewhere else",
    )


def _content(holder: str, token: str, count: int) -> bytes:
    """Return the content of a lease's object; the count makes each renewal another content, and so another tag."""
    return json.dumps({"holder": holder, "token": token, "renewal": count}).encode()
