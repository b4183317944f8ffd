"""Schedule of a profile: the steps that warm up, those that are timed, and those that are traced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ple_rec.errors import Option, UserError, settings

# A profile needs one step of each kind.
LEAST_STEPS = 3
_WARM_UP, _TIMED, _TRACED = 10, 20, 3
ALL_STEPS = _WARM_UP + _TIMED + _TRACED


@dataclass(frozen=True)
class Schedule:
    """Numbers of steps done at which the parts of a profile begin.

    Args:
        start: Begin of the warm-up.
        pace: Begin of the second half of the warm-up, over which the speed without any profiling is measured.
        timed: Begin of the steps whose regions are timed.
        traced: Begin of the steps under the profiler.
        end: End of the profile.
    """

    start: int
    pace: int
    timed: int
    traced: int
    end: int

    @property
    def is_short(self) -> bool:
        """True if the run has fewer steps than a full profile."""
        return self.end - self.start < ALL_STEPS


def check_steps(left: int) -> None:
    """Refuse to profile a run with fewer than three steps.

    Args:
        left: Number of steps to train.

    Raises:
        UserError: There are fewer than three steps.
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
    """Return a schedule of 10 steps of warm-up, 20 timed and 3 traced steps, or of fewer steps for a short run.

    Args:
        start: Number of steps done before.
        left: Number of steps that follow, at least 3.
        pauses: Function that returns True if an evaluation or a checkpoint follows a step. The trace begins some steps
            later if that keeps these out of it.
    """
    traced = min(_TRACED, left // 3)
    warm_up = min(_WARM_UP, left // 3)
    timed = start + warm_up
    earliest = timed + min(_TIMED, left - warm_up - traced)
    begins = range(earliest, start + left - traced + 1)
    begin = next((step for step in begins if not any(map(pauses, range(step, step + traced)))), earliest)
    return Schedule(start, timed - warm_up // 2, timed, begin, begin + traced)
