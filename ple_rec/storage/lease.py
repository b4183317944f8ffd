"""Leases: exclusive ownership of a prefix of an object store, since stores have no locks.

A lease holds as long as its holder renews it. The object `<prefix>/.lease/lease.json` names the holder, and the store's
clock tells its age. A holder renews the lease on the condition that nobody else has written the object since; another
process acquires it on the condition that it was not renewed since it was read. So there is one holder at a time,
whatever the clocks of hosts say, and a holder that was suspended notices that it has lost the lease before it changes
anything. Only S3 guarantees this; `store.py` describes the weaker conditions and ages of other stores.
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

LEASE_SECONDS = 20.0  # Time for which a lease holds after each write of its object.
_RENEWALS = 4  # Number of renewals in that time.
_POLL_SECONDS = 0.5
_ROUNDING_SECONDS = 1.0  # Stores report times in whole seconds, so a lease counts as live for one second longer.
LEASE = ".lease"  # Folder below the prefix with the object of the lease.
_FILE = "lease.json"


@dataclass(frozen=True)
class Holder:
    """Holder of a lease, as another process reads it from the store.

    Args:
        name: Text that tells users which process holds the lease.
        token: Random text that identifies the holder; empty if the lease was given back.
        seconds_left: Seconds for which the lease still holds unless it is renewed; 0 or less if it has ended.
    """

    name: str
    token: str
    seconds_left: float

    @property
    def is_live(self) -> bool:
        """Whether the lease still holds."""
        return self.seconds_left > 0


def read_holder(prefix: Remote) -> Holder | None:
    """Return the last holder of the lease of a prefix, live or expired; None if the prefix never had a lease.

    Raises:
        StoreError: The store cannot be read.
    """
    lease = _read_lease(prefix / LEASE / _FILE)
    return None if lease is None else lease[1]


def _read_lease(file: Remote) -> tuple[str, Holder] | None:
    """Return the tag and the holder of a lease; None if its object does not exist."""
    try:
        tag, age = tag_and_age(file)
        name, token = _read_name_and_token(file)
    except FileNotFoundError:
        return None
    return tag, Holder(name, token, LEASE_SECONDS + _ROUNDING_SECONDS - age if token else 0.0)


def _read_name_and_token(file: Remote) -> tuple[str, str]:
    """Return name and token of the holder; both are `?` if the object was not written by ple-rec."""
    try:
        content: Any = json.loads(file.read_bytes())
        return str(content["holder"]), str(content["token"])
    except (ValueError, LookupError, TypeError):
        return "?", "?"


class Lease:
    """Lease that this process holds; a thread renews it until it is given back.

    Args:
        prefix: Prefix that the lease covers.
        holder: Text that tells users which process holds the lease.
        token: Random text that identifies this holder.
        tag: Tag of the lease's object, which was just written.
    """

    def __init__(self, prefix: Remote, holder: str, token: str, tag: str) -> None:
        self._prefix, self._file = prefix, prefix / LEASE / _FILE
        self._holder, self._token, self._tag = holder, token, tag
        self._renewed = time.monotonic()
        self._renewals_done = 0
        self._lock = threading.Lock()  # `check` waits for a renewal in progress, which changes the tag.
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_done, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, prefix: Remote, holder: str, wait: float = 0.0) -> Lease | Holder:
        """Acquire the lease of a prefix and return it; if another process keeps it, return that holder.

        Args:
            prefix: Prefix that the lease covers.
            holder: Text that tells users which process acquires the lease.
            wait: Seconds to wait until another holder gives the lease back or lets it expire.

        Raises:
            StoreError: The store cannot be read or written.
        """
        end, token, file = time.monotonic() + wait, token_hex(8), prefix / LEASE / _FILE
        content = _lease_content(holder, token, 0)
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

        A lease that was not renewed for half of `LEASE_SECONDS` is renewed first.

        Raises:
            UserError: Another process has acquired it.
            StoreError: The store cannot be read or written.
        """
        with self._lock:
            if time.monotonic() - self._renewed >= LEASE_SECONDS / 2:  # This process may have been suspended.
                self._renew()
            elif not self._is_own():
                raise self._lost_error()

    def give_back(self) -> None:
        """Give the lease back, so that others can acquire it at once.

        Raises:
            StoreError: The store cannot be written; the lease then expires.
        """
        self._done.set()
        self._thread.join()
        try:
            put(self._file, _lease_content(self._holder, "", self._renewals_done), tag=self._tag)
        except StoreError as error:
            if error.kind != "changed":  # "changed": another process has the lease, so there is nothing to give back.
                raise

    def _renew_until_done(self) -> None:
        while not self._done.wait(LEASE_SECONDS / _RENEWALS):
            try:
                with self._lock:
                    self._renew()
            except StoreError:  # The store may be unavailable for a moment; the next renewal tries again.
                continue
            except UserError:  # Another process has the lease; `check` tells the caller.
                return

    def _renew(self) -> None:
        """Write the lease again; raises as `check` does."""
        start = time.monotonic()
        self._renewals_done += 1
        try:
            self._tag = put(self._file, _lease_content(self._holder, self._token, self._renewals_done), tag=self._tag)
        except StoreError as error:
            if error.kind != "changed":
                raise
            if not self._is_own():
                raise self._lost_error() from error
        self._renewed = start

    def _is_own(self) -> bool:
        """Return True if this process wrote the object; its last write counts even if the store's answer was lost."""
        try:
            tag = tag_of(self._file)
            if tag != self._tag and _read_name_and_token(self._file)[1] == self._token:
                self._tag = tag
        except FileNotFoundError:
            return False
        return tag == self._tag

    def _lost_error(self) -> UserError:
        return in_use_error(self._prefix, read_holder(self._prefix) or Holder("?", "", 0.0))


def in_use_error(prefix: Remote, holder: Holder) -> UserError:
    """Return the error for a prefix whose lease another process holds.

    Args:
        prefix: Prefix that the lease covers.
        holder: Holder of its lease.
    """
    left = max(1, round(holder.seconds_left))
    return UserError(
        str(prefix),
        f"in use by process {holder.name}, whose lease holds for {left} s or more",
        "one process at a time writes there",
        "wait for it, stop it, or write somewhere else",
    )


def _lease_content(holder: str, token: str, count: int) -> bytes:
    """Return the content of a lease's object. The count makes the content of each renewal different, and so its tag."""
    return json.dumps({"holder": holder, "token": token, "renewal": count}).encode()
