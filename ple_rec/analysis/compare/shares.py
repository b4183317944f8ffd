"""Hosts that each train a share of a comparison in one folder, and wait for each other at the end.

Schedulers end a job's other processes soon after the first one (Slurm, by `srun --wait`), or when one fails. So each
share waits until all have ended. It writes a rising count to its file `.shares/<job>/<i>-of-<n>` while it trains, and
`done` at the end. The others stop waiting for a share if its count has not changed for `PATIENCE_SECONDS`.
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

from ple_rec.runs.layout import writing

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 300.0
_BEAT_SECONDS = 15.0
_FOLDER, _DONE = ".shares", "done"
# Each job has a folder of its own, since the files of an earlier job say nothing of this one.
_JOB = "TORCHX_JOB_ID"


@contextmanager
def share_of(root: Path, index: int, of: int, *, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Mark a share as alive inside the block, and wait at its end until the other shares have ended.

    Args:
        root: Existing directory of the comparison.
        index: Index of the share, from 0.
        of: Number of shares; a single one writes no file.
        patience: Seconds to wait for a share whose count does not change.

    Raises:
        UserError: The folder cannot be written.
    """
    if of == 1:
        yield
        return
    folder = root / _FOLDER / re.sub(r"[^A-Za-z0-9.-]+", "-", os.environ.get(_JOB, "by-hand"))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, index, of, "0")
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(folder, index, of, ended), name="share", daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        _write(folder, index, of, _DONE)
    _wait(folder, [i for i in range(of) if i != index], of, patience)


def _beat(folder: Path, index: int, of: int, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(_BEAT_SECONDS):
        count += 1
        _write(folder, index, of, str(count))


def _wait(folder: Path, others: list[int], of: int, patience: float) -> None:
    seen = {i: (_read(folder, i, of), time.monotonic()) for i in others}
    logged, given_up = False, list[int]()
    while True:
        for i in others:
            now = _read(folder, i, of)
            if now != seen[i][0]:
                seen[i] = (now, time.monotonic())
        left = [i for i in others if seen[i][0] != _DONE]
        lost = [i for i in left if time.monotonic() - seen[i][1] > patience]
        if new := [i for i in lost if i not in given_up]:
            logger.info(
                f"share {', '.join(f'{i}/{of}' for i in new)} gave no sign for {patience:.0f} s: waited for no more"
            )
        if len(lost) == len(left):
            return
        given_up = lost
        if not logged:
            logger.info(f"this share has ended; waiting for {', '.join(f'{i}/{of}' for i in left)}")
            logged = True
        time.sleep(min(1.0, patience / 10))


def _write(folder: Path, index: int, of: int, text: str) -> None:
    draft = folder / f".{index}-of-{of}"
    draft.write_text(text)
    draft.replace(folder / f"{index}-of-{of}")


def _read(folder: Path, index: int, of: int) -> str | None:
    try:
        return (folder / f"{index}-of-{of}").read_text()
    except OSError:
        return None
