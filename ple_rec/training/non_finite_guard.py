"""Guard that stops a training on all ranks if a loss or a gradient is not finite.

The guard needs one all-reduce a step. The same all-reduce sums counts_K over the ranks: the total weight of the samples
in each task's loss, by which the loss is divided. It also tells all ranks if a rank requests a stop or a checkpoint. On
a GPU, the host reads the result of a step from pinned memory at the next step, so that it does not wait for the work of
the current step.

Shape suffixes: K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.errors import DivergedError


class NonFiniteGuard:
    """All-reduce of each step, with counts_K of this step, non-finite flags of the previous step, and requests.

    A step calls `start`, then `counts_K` once the counts are needed, and `record` after its backward pass. The flags
    come one step late, since the all-reduce begins before the losses of its step are known. They could not prevent the
    update of that step anyway, because the tables are updated during the backward pass. A flag stops all ranks at the
    next step; `synchronize` checks the last step before a checkpoint is written. A request of one rank is known to all
    ranks one step later.

    Args:
        tasks: Names of the tasks.
        device: Device of the model.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        self.tasks = tuple(tasks)
        self.device = device
        # Flags of this rank for the last recorded step: one for each task's loss, and one for the dense gradients. A
        # flag is 0 if the value is finite, else NaN, which stays NaN in the sum over the ranks.
        self._flags = torch.zeros(len(tasks) + 1, device=device)
        # Row 2 * stop + save holds these two requests, so that a step copies nothing to the device.
        self._requests = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], device=device)
        self._flags_step = -1
        self._stop = self._save = False
        # Reduced flags and requests of all ranks, which a GPU may still be copying to the host.
        self._reduced: Tensor | None = None
        self._reduced_step = -1
        self._copy_event: torch.cuda.Event | None = None
        # A copy to unpinned memory would make the host wait. `_read` evaluates the buffer before the next copy.
        self._host_buffer = torch.zeros(len(tasks) + 3, dtype=torch.float64, pin_memory=device.type == "cuda")

    def wants_to_stop(self) -> bool:
        """Return True if a rank has requested a stop; the result is the same on every rank.

        Raises:
            DivergedError: An earlier step was not finite.
        """
        self._read()
        return self._stop

    def take_save_request(self) -> bool:
        """Return True if a rank has requested a save since the last call; the result is the same on every rank.

        Raises:
            DivergedError: An earlier step was not finite.
        """
        self._read()
        requested, self._save = self._save, False
        return requested

    def start(self, counts_K: Tensor, *, stop: bool = False, save: bool = False) -> None:
        """Begin the all-reduce of this step.

        Args:
            counts_K: Sums of the sample weights in each task's loss, on this rank.
            stop: Stop request of this rank.
            save: Save request of this rank.

        Raises:
            DivergedError: An earlier step was not finite.
        """
        self._read()
        self._packed = torch.cat([counts_K, self._flags, self._requests[2 * stop + save]]).double()
        self._packed_step = self._flags_step
        self._work = dist.all_reduce(self._packed, async_op=True)

    def counts_K(self) -> Tensor:
        """Wait for the all-reduce of this step, and return the counts over all ranks."""
        self._work.wait()
        task_count = len(self.tasks)
        flags = self._packed[task_count:]
        self._reduced_step = self._packed_step
        if self.device.type == "cuda":
            self._reduced = self._host_buffer.copy_(flags, non_blocking=True)
            self._copy_event = torch.cuda.Event()
            self._copy_event.record()
        else:
            self._reduced = flags
        return self._packed[:task_count].float()

    def record(self, step: int, sums_K: Tensor, gradient_norm: Tensor) -> None:
        """Record whether the losses and the dense gradients of a step are finite; the next all-reduce sends the flags.

        Args:
            step: Number of the step, from 1.
            sums_K: Sum of each task's losses on this rank.
            gradient_norm: Norm of the dense gradients.
        """
        values = torch.cat([sums_K.detach(), gradient_norm.detach().reshape(1)])
        # The difference is 0 for a finite value, else NaN. `isfinite` would be several operators.
        self._flags = values - values
        self._flags_step = step

    def synchronize(self) -> None:
        """Check the last recorded step at once (a collective).

        Raises:
            DivergedError: The step was not finite on some rank.
        """
        self._read()
        flags = self._flags.double()
        dist.all_reduce(flags)
        self._reduced, self._reduced_step, self._copy_event = flags.cpu(), self._flags_step, None
        self._read()

    def _read(self) -> None:
        """Take the requests and flags of the last all-reduce, once; raise a DivergedError if a flag is set."""
        if self._reduced is None:
            return
        if self._copy_event is not None:
            self._copy_event.synchronize()
        reduced = self._reduced.tolist()
        flags, requests = reduced[: len(self.tasks) + 1], reduced[len(self.tasks) + 1 :]
        # `synchronize` reduces the flags alone.
        if requests:
            self._stop, self._save = self._stop or requests[0] > 0, self._save or requests[1] > 0
        non_finite = [i for i, flag in enumerate(flags) if flag != 0]
        self._reduced = None
        if not non_finite:
            return
        names = [self.tasks[i] for i in non_finite if i < len(self.tasks)]
        losses = f"the loss{'es' * (len(names) > 1)} of task{'s' * (len(names) > 1)} {', '.join(names)}"
        subject = losses if names else "the dense gradients"
        raise DivergedError(
            f"step {self._reduced_step}",
            f"{subject} {'is' if len(names) <= 1 and names else 'are'} not finite",
            "training stops, since this step has already updated the tables",
            "train again with a smaller learning rate, a warm-up or dense_optimizer.clip_norm, and look at the inputs",
        )
