"""Ownership of a prefix of an object store, which has no locks: it lasts while its holder renews it.

`<prefix>/<n>.json` says who holds lease n and until when. The next holder writes n + 1, which the store lets one writer
alone create; so whoever finds a lease above its own has lost the prefix, however long it slept. A holder that was
killed renews no more: somebody else gets in after `SECONDS`. Clocks of the hosts may differ by less than that.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from ple_rec.storage.files import create_text, names_in, write_text
from ple_rec.storage.location import Remote

SECONDS = 20.0  # for which a lease holds after it was written
_RENEWALS = 4  # in this time
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Args:
        number: Number of the lease.
        name: Text that tells a person who holds it.
        until: Seconds since the epoch up to which it holds; 0 once it was given back.
    """

    number: int
    name: str
    until: float

    @property
    def is_live(self) -> bool:
        """Whether the lease still holds."""
        return time.time() < self.until

    @property
    def until_text(self) -> str:
        """The end of the lease, for people."""
        return f"{datetime.fromtimestamp(self.until, UTC):%H:%M:%S} UTC"


def newest_holder(prefix: Remote) -> Holder | None:
    """Return who holds the newest lease of a prefix, live or not; None where nobody ever did.

    Raises:
        OSError: The store cannot be read.
    """
    number = _newest_number(prefix)
    return None if number is None else _holder(prefix, number)


def _newest_number(prefix: Remote) -> int | None:
    numbers = [name.removesuffix(".json") for name in names_in(prefix)]
    return max((int(number) for number in numbers if number.isdecimal()), default=None)


def _holder(prefix: Remote, number: int) -> Holder:
    try:
        content = json.loads((prefix / f"{number}.json").read_text())
        return Holder(number, str(content["holder"]), float(content["until"]))
    except FileNotFoundError:  # the next holder has removed it since it was listed
        return Holder(number, "?", 0.0)
    except (ValueError, LookupError, TypeError):  # written by a later version: nobody that we know
        return Holder(number, "?", 0.0)


class Lease:
    """A lease that this process holds and renews, in a thread of its own, until it is given back.

    Args:
        prefix: Prefix of the lease's objects, which holds nothing else.
        holder: Text that tells a person who holds it.
        number: Number of the lease, whose object was just written.
    """

    def __init__(self, prefix: Remote, holder: str, number: int) -> None:
        self._prefix, self._holder, self._number = prefix, holder, number
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, prefix: Remote, holder: str, wait: float = 0.0) -> Lease | Holder:
        """Take the lease of a prefix, or return who holds it.

        Args:
            prefix: Prefix of the lease's objects.
            holder: Text that tells a person who takes it.
            wait: Seconds that another holder has to give it back, or to renew it no more.

        Raises:
            OSError: The store cannot be read or written.
        """
        end = time.monotonic() + wait
        while True:
            newest = newest_holder(prefix)
            if newest is None or not newest.is_live:
                number = 1 if newest is None else newest.number + 1
                try:
                    create_text(prefix / f"{number}.json", _content(holder, time.time() + SECONDS))
                except FileExistsError:  # another process was faster
                    newest = _holder(prefix, number)
                else:
                    for old in names_in(prefix):
                        if old != f"{number}.json":
                            (prefix / old).unlink(missing_ok=True)
                    return cls(prefix, holder, number)
            if time.monotonic() >= end:
                return newest
            time.sleep(_POLL_SECONDS)

    def other_holder(self) -> Holder | None:
        """Return who has taken the prefix since; None while it is ours.

        Raises:
            OSError: The store cannot be read.
        """
        number = _newest_number(self._prefix)
        return None if number is None or number == self._number else _holder(self._prefix, number)

    def give_back(self) -> None:
        """Let others take the prefix at once.

        Raises:
            OSError: The store cannot be written; the lease then ends by itself.
        """
        self._done.set()
        self._thread.join()
        if self.other_holder() is None:
            self._write(0.0)

    def _renew(self) -> None:
        while not self._done.wait(SECONDS / _RENEWALS):
            try:
                if self.other_holder() is not None:
                    return
                self._write(time.time() + SECONDS)
            except OSError:  # a store that is away for a moment; the next turn tries again
                continue

    def _write(self, until: float) -> None:
        write_text(self._prefix / f"{self._number}.json", _content(self._holder, until))


def _content(holder: str, until: float) -> str:
    return json.dumps({"holder": holder, "until": until})
