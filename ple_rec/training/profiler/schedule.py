"""Schedule of a profile: which steps of a run warm up, which are timed, and which are traced.

`session.StepProfile` calls `choose_steps` when the training loop begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ple_rec.errors import Option, UserError, overrides_text

# A profile needs one step of each kind: to warm up, to time and to trace.
LEAST_STEPS = 3
# Numbers of steps of a full profile.
_WARM_UP, _TIMED, _TRACED = 10, 20, 3
ALL_STEPS = _WARM_UP + _TIMED + _TRACED


@dataclass(frozen=True)
class Schedule:
    """Numbers of steps done at which the phases of a profile begin.

    Args:
        start: Start of the warm-up.
        baseline: Start of the second half of the warm-up, in which the speed without any profiling is measured.
        timed_start: Start of the steps whose regions are timed.
        traced_start: Start of the steps that `torch.profiler` traces.
        end: End of the profile.
    """

    start: int
    baseline: int
    timed_start: int
    traced_start: int
    end: int

    @property
    def is_short(self) -> bool:
        """True if the run has fewer steps than a full profile."""
        return self.end - self.start < ALL_STEPS


def check_steps(remaining_steps: int) -> None:
    """Refuse to profile a run with fewer than three steps.

    Args:
        remaining_steps: Number of steps to train.

    Raises:
        UserError: There are fewer than three steps.
    """
    if remaining_steps < LEAST_STEPS:
        raise UserError(
            Option.PROFILE,
            f"{remaining_steps} step(s) to train",
            f"a profile needs at least {LEAST_STEPS} steps, to warm up, to time and to trace one each; a full profile "
            f"has {ALL_STEPS}",
            f"train longer ({overrides_text('train.epochs=', f'train.steps={ALL_STEPS}')}), "
            f"or leave out {Option.PROFILE}",
        )


def choose_steps(start: int, remaining_steps: int, is_interrupted_after: Callable[[int], bool]) -> Schedule:
    """Return a schedule of 10 steps of warm-up, 20 timed and 3 traced steps, or of fewer steps for a short run.

    Args:
        start: Number of steps done before.
        remaining_steps: Number of steps that follow, at least 3.
        is_interrupted_after: Function of the number of steps done, which returns True if an evaluation or a checkpoint
            follows. If one would fall immediately before or between the traced steps, the trace begins later if
            possible, and more steps are timed.
    """
    traced = min(_TRACED, remaining_steps // 3)
    warm_up = min(_WARM_UP, remaining_steps // 3)
    timed_start = start + warm_up
    earliest = timed_start + min(_TIMED, remaining_steps - warm_up - traced)
    possible_starts = range(earliest, start + remaining_steps - traced + 1)
    traced_start = next(
        (step for step in possible_starts if not any(map(is_interrupted_after, range(step, step + traced)))), earliest
    )
    return Schedule(start, timed_start - warm_up // 2, timed_start, traced_start, traced_start + traced)
