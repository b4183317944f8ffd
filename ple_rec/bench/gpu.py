"""`ple-rec bench gpu`: what a borrowed GPU shows in ten minutes, as one page of results.

Each part is a process with a time limit of its own, and none stops those after it: a GPU that is there for an hour is
to tell as much as it can. The page is written anew after every part.

    gpu_parts.py   the parts: doctor, tests, data, trainings
    gpu_timed.py   the trainings, and what their reports tell
    gpu_page.py    the page
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ple_rec.bench.gpu_page import page
from ple_rec.bench.gpu_parts import SKIPPED, Outcome, Part, parts_of
from ple_rec.bench.harness import conditions
from ple_rec.errors import UserError

SOME_FAILED = 5
PAGE = "page.md"
_LEAST_SECONDS = 5.0  # that are worth the start of a part


def run(args: argparse.Namespace) -> int:
    """Run the parts; 0, or 5 where one has failed.

    Raises:
        UserError: no GPU, where the parts are for one.
    """
    devices = _devices(args.device)
    folder: Path = args.out
    folder.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    parts = parts_of(args.device, folder, gpus=len(devices), rows=args.rows, steps=args.steps, batch=args.batch_size)
    outcomes = run_parts(parts, folder, args.seconds, args.device, devices, say)
    sys.stdout.write(f"{folder / PAGE}\n")
    return SOME_FAILED if any(outcome.failed for outcome in outcomes) else 0


def run_parts(
    parts: Sequence[Part], folder: Path, seconds: float, device: str, devices: Sequence[str], say: Callable[[str], None]
) -> list[Outcome]:
    """Run the parts one after the other, and write the page after each.

    Args:
        parts: In their order.
        folder: For the page and the output of each part.
        seconds: For all of them; what has not begun by then is skipped.
        device: "cpu" or "cuda".
        devices: Described.
        say: Told of every part.
    """
    begun, before = time.monotonic(), conditions()
    outcomes: list[Outcome] = []
    for part in parts:
        left = begun + seconds - time.monotonic()
        if part.skip or left < _LEAST_SECONDS:
            why = part.skip or f"no time left of {seconds:.0f} s"
            outcome = Outcome(part, SKIPPED, 0.0, why)
        else:
            say(f"{part.name} ...")
            outcome = run_part(part, folder / f"{part.name.replace(' ', '-')}.log", min(part.seconds, left))
        say(f"{part.name}: {outcome.state}, {outcome.seconds:.0f} s{f', {outcome.says}' if outcome.says else ''}")
        outcomes.append(outcome)
        (folder / PAGE).write_text(page(outcomes, parts, device, devices, before), encoding="utf-8")
    return outcomes


def run_part(part: Part, log: Path, seconds: float) -> Outcome:
    """One part in a process of its own, which ends with its children when the time is over.

    Args:
        part: Which.
        log: For all that it prints.
        seconds: Its time limit.
    """
    begun = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *part.command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **part.environment},  # keeps what a killed part has printed
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
            said = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            said = f"not done after {seconds:.0f} s"
        finally:
            _end(process)
    took = time.monotonic() - begun
    text = log.read_text(encoding="utf-8", errors="replace")
    if said:
        return Outcome(part, "failed", took, said, output=text)
    try:
        return Outcome(part, "ok", took, part.tells(text))
    except (ValueError, LookupError, OSError) as error:
        return Outcome(part, "failed", took, f"{type(error).__name__}: {error}", output=text)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _devices(device: str) -> list[str]:
    """What torch sees, one line a GPU; nothing for a CPU.

    Raises:
        UserError: no GPU where one is asked for.
    """
    if device == "cpu":
        return []
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "gpu",
            "torch sees no CUDA device",
            "these parts are for a GPU, its driver and a CUDA build of torch",
            "run `ple-rec doctor`, or try the parts on this CPU by `ple-rec bench gpu --device cpu`",
        )
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    versions = f"CUDA {torch.version.cuda}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    return [f"{p.name}, {p.total_memory / 2**30:.0f} GiB, sm_{p.major}{p.minor}, {versions}" for p in found]
