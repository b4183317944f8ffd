"""Whether all hosts see one run directory and one dataset, asked before there is anything to lose."""

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

_PATIENCE_SECONDS = 10.0  # network file systems show what another host wrote when they please
_POLL_SECONDS = 0.2
_SHOWN = 5  # hosts that a message names


@dataclass(frozen=True)
class _Sight:
    """What the first rank of a host sees."""

    host: str
    unseen: tuple[str, ...]  # of the directories
    dataset: str | None  # its fingerprint
    why_not: str


def check_storage(directories: Sequence[Path], data: str, ranks: Ranks, patience: float = _PATIENCE_SECONDS) -> None:
    """Refuse hosts that do not share a directory, or have other datasets (a collective; one host is not asked).

    Rank 0 writes a random token, the first rank of every host reads it.

    Args:
        directories: That all ranks write to: the run's, which rank 0 has claimed, and that of its checkpoints.
        data: Path of the dataset on each host, or its address.
        ranks: The cluster.
        patience: Seconds until what rank 0 writes must be seen.

    Raises:
        UserError: on every rank, with the names of the hosts.
    """
    if ranks.local_world_size == ranks.world_size:
        return
    probes, token = [directory / PROBE for directory in directories], [token_hex(8)]
    run_on_rank_zero(lambda: _leave(probes, token[0]))
    try:
        # No host looks before the file is there: that it is not would be remembered for a while.
        dist.broadcast_object_list(token, src=0)
        first = ranks.rank % ranks.local_world_size == 0
        sights: list[_Sight | None] = [None] * ranks.world_size
        dist.all_gather_object(sights, _look(probes, token[0], data, patience) if first else None)
    finally:
        if ranks.is_main:
            for probe in probes:
                probe.unlink(missing_ok=True)
    _judge(data, [sight for sight in sights if sight is not None], patience)


def _leave(probes: Sequence[Path], token: str) -> None:
    for probe in probes:
        probe.parent.mkdir(parents=True, exist_ok=True)
        write_text(probe, token)


def _look(probes: Sequence[Path], token: str, data: str, patience: float) -> _Sight:
    end = time.monotonic() + patience
    while (unseen := [probe for probe in probes if not _reads(probe, token)]) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    try:
        fingerprint, why_not = load_schema(data).fingerprint, ""
    except PleRecError as error:
        fingerprint, why_not = None, error.value
    return _Sight(socket.gethostname(), tuple(str(probe.parent) for probe in unseen), fingerprint, why_not)


def _reads(probe: Path, token: str) -> bool:
    with suppress(OSError):
        list(probe.parent.iterdir())  # makes a network file system ask for what is new there
        return probe.read_text() == token
    return False


def _judge(data: str, sights: Sequence[_Sight], patience: float) -> None:
    main = sights[0]
    if blind := [sight for sight in sights if sight.unseen]:
        raise UserError(
            blind[0].unseen[0],
            f"what rank 0 writes there on {main.host} is not seen on {_some([sight.host for sight in blind])} after "
            f"{patience:g} s",
            "all hosts of a job share its run directory and its checkpoints",
            f"give a {Option.RUN_DIR}, and checkpoint.path, on storage that every host mounts",
        )
    if others := [f"{s.host} ({s.dataset or s.why_not})" for s in sights if s.dataset != main.dataset]:
        raise UserError(
            f"data.path {data}",
            f"is {main.dataset or main.why_not} on {main.host}, but not on {_some(others)}",
            "all hosts of a job read the same dataset, by its fingerprint",
            "put it on storage that every host mounts, or copy it to each",
        )


def _some(hosts: Sequence[str]) -> str:
    more = f" and {len(hosts) - _SHOWN} more" if len(hosts) > _SHOWN else ""
    return ", ".join(hosts[:_SHOWN]) + more
