"""Barrier at the end of a comparison whose runs several hosts train, each host a share, in one shared folder.

When one process of a job ends, schedulers soon end the others (Slurm, by `srun --wait`). So each host waits until all
have ended. While a host trains, it writes a rising count to its file `.shares/<job>/<i>-of-<n>`, and `done` at the end.
The others stop waiting for it if its count has not changed for `PATIENCE_SECONDS`.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ple_rec.runs.layout import explain_write_errors

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 300.0
_BEAT_SECONDS = 15.0
_FOLDER, _DONE = ".shares", "done"
# Environment variable with the name of the job, which TorchX sets. Each job has a folder of its own, so that it does
# not read the files of an earlier job.
_JOB = "TORCHX_JOB_ID"


@contextmanager
def hold_share(root: Path, index: int, shares: int, *, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Mark the share of this host as alive inside the block, and wait after it until the other shares have ended.

    If the block raises an error, this host waits for no other.

    Args:
        root: Existing directory of the comparison.
        index: Index of the share, from 0.
        shares: Number of shares; a single one writes no file.
        patience: Seconds to wait for a share whose count does not change.

    Raises:
        UserError: The folder cannot be written.
    """
    if shares == 1:
        yield
        return
    folder = root / _FOLDER / re.sub(r"[^A-Za-z0-9.-]+", "-", os.environ.get(_JOB, "by-hand"))
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, index, shares, "0")
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(folder, index, shares, ended), name="share", daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        _write(folder, index, shares, _DONE)
    _wait(folder, [i for i in range(shares) if i != index], shares, patience)


def _beat(folder: Path, index: int, shares: int, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(_BEAT_SECONDS):
        count += 1
        _write(folder, index, shares, str(count))


def _wait(folder: Path, others: list[int], shares: int, patience: float) -> None:
    """Wait until each of the other shares has ended, or has written nothing new for `patience` seconds."""
    seen = {i: (_read(folder, i, shares), time.monotonic()) for i in others}
    logged, given_up = False, list[int]()
    while True:
        for i in others:
            now = _read(folder, i, shares)
            if now != seen[i][0]:
                seen[i] = (now, time.monotonic())
        left = [i for i in others if seen[i][0] != _DONE]
        lost = [i for i in left if time.monotonic() - seen[i][1] > patience]
        if new := [i for i in lost if i not in given_up]:
            logger.info(
                f"share {', '.join(f'{i}/{shares}' for i in new)} wrote nothing for {patience:.0f} s: "
                "no longer waited for"
            )
        if len(lost) == len(left):
            return
        given_up = lost
        if not logged:
            logger.info(f"this share has ended; waiting for {', '.join(f'{i}/{shares}' for i in left)}")
            logged = True
        time.sleep(min(1.0, patience / 10))


def _write(folder: Path, index: int, shares: int, text: str) -> None:
    draft = folder / f".{index}-of-{shares}"
    draft.write_text(text, encoding="utf-8")
    draft.replace(folder / f"{index}-of-{shares}")


def _read(folder: Path, index: int, shares: int) -> str | None:
    try:
        return (folder / f"{index}-of-{shares}").read_text(encoding="utf-8")
    except OSError:
        return None
