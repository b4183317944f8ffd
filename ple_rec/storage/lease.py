"""Exclusive ownership of a prefix of an object store, which has no locks: a lease lasts while its holder renews it.

The object `<prefix>/.lease/lease.json` names the holder, and the store's clock tells its age. A holder renews it on the
condition that nobody else has written it since; another process acquires it on the condition that it was not renewed
since it was read. So there is one holder at a time, whatever the clocks of hosts say, and a holder that was suspended
notices that it has lost the lease before it changes anything.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from ple_rec.errors import UserError
from ple_rec.storage.location import Remote
from ple_rec.storage.store import put, tag_and_age, tag_of
from ple_rec.storage.store_errors import StoreError

SECONDS = 20.0  # A lease holds for this time after each write.
_RENEWALS = 4  # Number of renewals in that time.
_POLL_SECONDS = 0.5
_ROUNDING = 1.0  # Stores tell times in whole seconds.
LEASE = ".lease"  # Folder of the lease's object below the prefix.
_FILE = "lease.json"


@dataclass(frozen=True)
class Holder:
    """Holder of a lease, as others see it.

    Args:
        name: Text that tells a person who holds it.
        token: Random text that tells this holder from all others; empty once the lease was given back.
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
    """Return the holder of the lease of a prefix, live or expired; None if there was never one.

    Raises:
        StoreError: The store cannot be read.
    """
    lease = _read_lease(prefix / LEASE / _FILE)
    return None if lease is None else lease[1]


def _read_lease(file: Remote) -> tuple[str, Holder] | None:
    """Return the tag and the holder of a lease; None if its object does not exist."""
    try:
        tag, age = tag_and_age(file)
        name, token = _read(file)
    except FileNotFoundError:
        return None
    return tag, Holder(name, token, SECONDS + _ROUNDING - age if token else 0.0)


def _read(file: Remote) -> tuple[str, str]:
    """Return name and token of the holder; `?` for both if another program has written the object."""
    try:
        content: Any = json.loads(file.read_bytes())
        return str(content["holder"]), str(content["token"])
    except (ValueError, LookupError, TypeError):
        return "?", "?"


class Lease:
    """Lease that this process holds; a thread renews it until it is given back.

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
        self._lock = threading.Lock()  # A check waits for the tag of a renewal in progress.
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_done, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, prefix: Remote, holder: str, wait: float = 0.0) -> Lease | Holder:
        """Acquire the lease of a prefix, or return its holder.

        Args:
            prefix: Prefix that the lease covers.
            holder: Text that tells a person who acquires it.
            wait: Seconds to wait for another holder to give it back or to let it expire.

        Raises:
            StoreError: The store cannot be read or written.
        """
        end, token, file = time.monotonic() + wait, token_hex(8), prefix / LEASE / _FILE
        content = _content(holder, token, 0)
        while True:
            lease = _read_lease(file)
            if lease is not None and lease[1].token == token:  # Our write succeeded, but its answer was lost.
                return cls(prefix, holder, token, lease[0])
            if lease is None or not lease[1].is_live:
                try:
                    tag = put(file, content, create=True) if lease is None else put(file, content, tag=lease[0])
                    return cls(prefix, holder, token, tag)
                except FileExistsError:
                    continue
                except StoreError as error:
                    if error.kind != "changed":
                        raise
                    continue
            if time.monotonic() >= end:
                return lease[1]
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raise unless this process still holds the lease; to be called right before each change below the prefix.

        Raises:
            UserError: Another process has acquired it.
            StoreError: The store cannot be read.
        """
        with self._lock:
            if time.monotonic() - self._renewed >= SECONDS / 2:  # This process may have been suspended.
                self._renew()
            elif not self._is_own():
                raise self._lost()

    def give_back(self) -> None:
        """Give the lease back, so that others can acquire it at once.

        Raises:
            StoreError: The store cannot be written; the lease then expires.
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
            except StoreError:  # The store may be unavailable for a moment; the next renewal tries again.
                continue
            except UserError:
                return

    def _renew(self) -> None:
        """Write the lease again; raises as `check` does."""
        start = time.monotonic()
        self._count += 1
        try:
            self._tag = put(self._file, _content(self._holder, self._token, self._count), tag=self._tag)
        except StoreError as error:
            if error.kind != "changed":
                raise
            if not self._is_own():
                raise self._lost() from error
        self._renewed = start

    def _is_own(self) -> bool:
        """Return True if the object is our last write, or one of our writes whose answer was lost."""
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
        holder: Holder of its lease.
    """
    left = max(1, round(holder.seconds_left))
    return UserError(
        str(prefix),
        f"in use by process {holder.name}, for {left} s or more",
        "one process at a time writes there",
        "wait for it, stop it, or write somewhere else",
    )


def _content(holder: str, token: str, count: int) -> bytes:
    """Return the content of a lease's object; the count gives each renewal another content, and so another tag."""
    return json.dumps({"holder": holder, "token": token, "renewal": count}).encode()
