"""Stage: the places where the host waits for the device in a training step, by `torch.cuda.set_sync_debug_mode`."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.loop import DEFAULT_MODE, MODES, mode_title, open_training, run_overrides, train
from benchmarks.gpu.page import row_line, table_lines
from benchmarks.gpu.stage import Deadline, PartFailures, StageLines, StageSettings

_WARNING = "called a synchronizing CUDA operation"
# Packages whose innermost frames are shown, from the inside to the outside.
_CALLERS = ("fbgemm_gpu", "torchrec", "ple_rec")
_FRAMES_OF_EACH = 2
_WARM_UP = 10


class WaitCounter:
    """Counter of warnings of torch that the host waits, by the innermost frames of our code and of TorchRec.

    Attributes:
        counts: Number of waits by the frames that led to them, innermost first.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the warnings of the block."""
        with warnings.catch_warnings():
            show_others = warnings.showwarning

            def show(message: Any, *arguments: Any, **options: Any) -> None:
                if _WARNING in str(message):
                    self.counts[_callers()] += 1
                else:
                    show_others(message, *arguments, **options)

            warnings.filterwarnings("always", _WARNING)
            warnings.showwarning = show
            yield


def _callers() -> tuple[str, ...]:
    """Return the innermost frames of our code and of TorchRec: `train_step (ple_rec/training/step.py:60)`."""
    names: dict[str, list[str]] = {package: [] for package in _CALLERS}
    for frame in reversed(traceback.extract_stack()):
        parts = Path(frame.filename).parts
        package = next((name for name in _CALLERS if name in parts), None)
        if package is not None and len(names[package]) < _FRAMES_OF_EACH:
            file = "/".join(parts[len(parts) - 1 - parts[::-1].index(package) :])
            names[package].append(f"{frame.name} ({file}:{frame.lineno})")
    return tuple(name for package in _CALLERS for name in names[package]) or ("code of other packages",)


class _HostReads(TorchDispatchMode):
    """Rehearsal of the warnings on a CPU, where reading a value does not wait: a warning for each value read."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator is torch.ops.aten._local_scalar_dense.default:
            warnings.warn(_WARNING, stacklevel=1)
        return operator(*args, **(kwargs or {}))


@contextmanager
def _warnings_of_waits(settings: StageSettings) -> Iterator[None]:
    if settings.device == "cpu":
        with _HostReads():  # type: ignore[no-untyped-call]
            yield
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def record_waits(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Count the waits of 30 steps, and show the code that led to each, with the default of a GPU and without it.

    Raises:
        RuntimeError: A mode does not train.
    """
    steps = min(30, settings.steps)
    summaries, failures = list[str](), PartFailures()
    yield (
        f"{steps} steps of tencent-ple with {settings.batch_size:,} samples. Waits within FBGEMM and for events "
        "(`Event.synchronize`) give no warning; the next stage counts them."
    )
    for mode in (DEFAULT_MODE, "eager"):
        title = mode_title(settings, mode)
        with failures.collect(mode):
            counts = _count_waits(settings, steps, MODES[mode])
            summaries.append(f"{title}: {counts.total() / steps:.2f} waits a step at {len(counts)} places")
            yield from table_lines(f"{title}: called by, innermost first", "waits in all", "a step")
            for frames, count in counts.most_common():
                yield row_line("; ".join(frames), str(count), f"{count / steps:.2f}")
    failures.raise_if_any()
    return "; ".join(summaries)


def _count_waits(settings: StageSettings, steps: int, overrides: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Return the number of waits in some steps after a warm-up, by the frames that led to them."""
    counter = WaitCounter()
    counting, warning = counter.counting(), _warnings_of_waits(settings)

    def after_step(step: int) -> None:
        if step == _WARM_UP:
            counting.__enter__()
            warning.__enter__()
        elif step == _WARM_UP + steps:
            warning.__exit__(None, None, None)
            counting.__exit__(None, None, None)

    run = run_overrides(settings, settings.batch_size, *overrides)
    with open_training(settings, "tencent-ple", run) as context:
        train(context, settings, _WARM_UP + steps, after_step)
    return counter.counts
