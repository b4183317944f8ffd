"""Hosts that each train a share of a comparison, in one folder: the first to end waits for the others.

Schedulers end a job's other processes soon after the first one (Slurm, by `srun --wait`), or when one fails. So a share
ends when all have: each keeps a file in `.shares/<job>/`, `<i>-of-<n>`, in which a count goes up while it trains, and
which says `done` at the end. A share whose count has stood still for `PATIENCE_SECONDS`, or that never came, is waited
for no more.
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
_JOB = "TORCHX_JOB_ID"  # what an earlier job left says nothing of this one


@contextmanager
def share_of(root: Path, index: int, of: int, *, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Train a share inside the block; it is left when the others have ended too.

    Args:
        root: Directory of the comparison, which is there.
        index: Of the share.
        of: How many there are; of a single one nothing is written.
        patience: Seconds without a sign of another share.

    Raises:
        UserError: the folder cannot be written.
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
    told, given_up = False, list[int]()
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
        if not told:
            logger.info(f"this share has ended; waiting for {', '.join(f'{i}/{of}' for i in left)}")
            told = True
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
