"""Which steps of a run are profiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ple_rec.errors import Option, UserError, settings

LEAST_STEPS = 3  # one of each kind
_WARM_UP, _TIMED, _TRACED = 10, 20, 3
ALL_STEPS = _WARM_UP + _TIMED + _TRACED


@dataclass(frozen=True)
class Schedule:
    """Numbers of steps done at which each part begins: `start`, `pace`, `timed`, `traced`, and the `end` of all.

    Steps from `start` warm up; over the later ones of them, from `pace`, the pace is taken of steps that nothing but a
    clock at both ends looks at. Then regions are timed, then the profiler traces.
    """

    start: int
    pace: int
    timed: int
    traced: int
    end: int

    @property
    def is_short(self) -> bool:
        """Whether the run had not the steps that a whole profile takes."""
        return self.end - self.start < ALL_STEPS


def check_steps(left: int) -> None:
    """Refuse to profile a run with next to no steps.

    Raises:
        UserError: there are fewer than three.
    """
    if left < LEAST_STEPS:
        raise UserError(
            Option.PROFILE,
            f"{left} step(s) to train",
            f"a profile takes {LEAST_STEPS} at least, to warm up, to be timed and to be traced, and {ALL_STEPS} if it "
            "is to be a good one",
            f"train longer ({settings('train.epochs=', f'train.steps={ALL_STEPS}')}), or leave out {Option.PROFILE}",
        )


def schedule(start: int, left: int, pauses: Callable[[int], bool]) -> Schedule:
    """10 steps of warm-up, 20 timed ones and 3 traced ones, or what there is in like parts.

    Args:
        start: Steps done before.
        left: Steps that follow, 3 at least.
        pauses: Whether a step is followed by an evaluation or a checkpoint, which a trace better does without: where
            that helps, it begins some steps later.
    """
    traced = min(_TRACED, left // 3)
    warm_up = min(_WARM_UP, left // 3)
    timed = start + warm_up
    first = timed + min(_TIMED, left - warm_up - traced)
    begins = range(first, start + left - traced + 1)
    begin = next((at for at in begins if not any(pauses(step) for step in range(at, at + traced))), first)
    return Schedule(start, timed - warm_up // 2, timed, begin, begin + traced)
