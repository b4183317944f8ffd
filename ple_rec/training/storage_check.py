"""Check that all hosts see the same run directory and the same dataset, before training starts."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import torch.distributed as dist

from ple_rec.config.load import load_schema
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.distributed.process_group import Ranks
from ple_rec.errors import Option, PleRecError, UserError
from ple_rec.runs.layout import PROBE, write_text

# A network file system may show a file of another host only after some seconds.
_WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.2
# Largest number of hosts that a message names.
_MOST_SHOWN = 5


@dataclass(frozen=True)
class _HostView:
    """Directories and dataset as the first rank of a host sees them.

    Args:
        host: Name of the host.
        missing: Directories in which the host does not see the file of rank 0.
        dataset: Fingerprint of the dataset; None if it cannot be read.
        dataset_error: Reason that the dataset cannot be read; empty if it can.
    """

    host: str
    missing: tuple[str, ...]
    dataset: str | None
    dataset_error: str


def check_storage(directories: Sequence[Path], data: str, ranks: Ranks, wait_seconds: float = _WAIT_SECONDS) -> None:
    """Refuse hosts that do not share a directory or do not have the same dataset (a collective).

    Rank 0 writes a file with a random token, the probe, into each directory, and the first rank of every host reads it.
    Then the hosts compare the fingerprints of the dataset. Nothing is checked if all ranks are on one host.

    Args:
        directories: Directories that all ranks write to: the run directory and the directory of its checkpoints.
        data: Path of the dataset on each host, or its address.
        ranks: Place of this process among the ranks.
        wait_seconds: Seconds within which every host must see the file of rank 0.

    Raises:
        UserError: A host does not see a directory or has another dataset; every rank raises, and names the hosts.
    """
    if ranks.local_world_size == ranks.world_size:
        return
    probes, token = [directory / PROBE for directory in directories], [token_hex(8)]
    run_on_rank_zero(lambda: _write_probes(probes, token[0]))
    try:
        # A network file system caches for a while that a file is missing, so no host looks for it before it exists.
        dist.broadcast_object_list(token, src=0)
        is_first = ranks.rank % ranks.local_world_size == 0
        views: list[_HostView | None] = [None] * ranks.world_size
        dist.all_gather_object(views, _view_of_this_host(probes, token[0], data, wait_seconds) if is_first else None)
    finally:
        if ranks.is_main:
            for probe in probes:
                probe.unlink(missing_ok=True)
    _check_views(data, [view for view in views if view is not None], wait_seconds)


def _write_probes(probes: Sequence[Path], token: str) -> None:
    for probe in probes:
        probe.parent.mkdir(parents=True, exist_ok=True)
        write_text(probe, token)


def _view_of_this_host(probes: Sequence[Path], token: str, data: str, wait_seconds: float) -> _HostView:
    end = time.monotonic() + wait_seconds
    while (missing := [probe for probe in probes if not _has_token(probe, token)]) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    try:
        fingerprint, dataset_error = load_schema(data).fingerprint, ""
    except PleRecError as error:
        fingerprint, dataset_error = None, error.value
    return _HostView(socket.gethostname(), tuple(str(probe.parent) for probe in missing), fingerprint, dataset_error)


def _has_token(probe: Path, token: str) -> bool:
    with suppress(OSError):
        # Listing the directory makes a network file system ask for new files.
        list(probe.parent.iterdir())
        return probe.read_text(encoding="utf-8") == token
    return False


def _check_views(data: str, views: Sequence[_HostView], wait_seconds: float) -> None:
    main = views[0]
    if incomplete := [view for view in views if view.missing]:
        hosts = _abbreviate([view.host for view in incomplete])
        raise UserError(
            incomplete[0].missing[0],
            f"a file that rank 0 writes there on {main.host} is not seen on {hosts} after {wait_seconds:g} s",
            "all hosts of a job share its run directory and its checkpoints",
            f"give a {Option.RUN_DIR}, and checkpoint.path, on storage that every host mounts",
        )
    if differing := [
        f"{view.host} ({view.dataset or view.dataset_error})" for view in views if view.dataset != main.dataset
    ]:
        raise UserError(
            f"data.path {data}",
            f"is {main.dataset or main.dataset_error} on {main.host}, but not on {_abbreviate(differing)}",
            "all hosts of a job read the same dataset, with the same fingerprint",
            "put it on storage that every host mounts, or copy it to each host",
        )


def _abbreviate(hosts: Sequence[str]) -> str:
    more = f" and {len(hosts) - _MOST_SHOWN} more" if len(hosts) > _MOST_SHOWN else ""
    return ", ".join(hosts[:_MOST_SHOWN]) + more
