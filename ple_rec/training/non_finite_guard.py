"""Global counts for the loss, non-finite flags, and requests to stop or to save, in one all-reduce a forward pass.

On a GPU the host reads the flags of a step from pinned memory at the next step: it waits at most for work that the
device was given a whole step before.

Shape suffixes: K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.errors import DivergedError


class NonFiniteGuard:
    """One all-reduce per step of [counts_K of this step, non-finite flags of the previous step, stop, save requests].

    A fused table is already written when backward ends, so the flags cannot save the step; they stop the run one step
    later on every rank at once, and no checkpoint is written before `settle` has found its step finite. All ranks
    know a rank's request one step later.

    Args:
        tasks: Task names.
        device: Of the counts.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        self.tasks = tuple(tasks)
        self.device = device
        self._flags = torch.zeros(len(tasks) + 1, device=device, dtype=torch.float64)  # of the last noted step
        self._flags_step = -1
        self._stop = self._save = False
        self._seen: Tensor | None = None  # reduced flags on their way to the host
        self._seen_step = -1
        self._arrived: torch.cuda.Event | None = None
        # Pinned: a copy to other memory would make the host wait for it. Read before the next step writes to it.
        self._host = torch.zeros(len(tasks) + 3, dtype=torch.float64, pin_memory=device.type == "cuda")

    def wants_to_stop(self) -> bool:
        """Whether any rank had said so in the last step that was started; the same on every rank.

        Raises:
            DivergedError: an earlier step was not finite.
        """
        self._read()
        return self._stop

    def take_save_request(self) -> bool:
        """Return whether a rank has requested a save since the last call; the same on every rank.

        Raises:
            DivergedError: an earlier step was not finite.
        """
        self._read()
        requested, self._save = self._save, False
        return requested

    def start(self, counts_K: Tensor, *, stop: bool = False, save: bool = False) -> None:
        """Begin the all-reduce of this step.

        Args:
            counts_K: Local counts of this step.
            stop: Stop request of this rank.
            save: Save request of this rank.

        Raises:
            DivergedError: an earlier step was not finite.
        """
        self._read()
        pinned = self.device.type == "cuda"  # a copy from other memory would make the host wait for the device
        requests = torch.tensor([stop, save], dtype=torch.float64, pin_memory=pinned)
        requests = requests.to(self.device, non_blocking=True)
        self._packed = torch.cat([counts_K.double(), self._flags, requests])
        self._packed_step = self._flags_step
        self._work = dist.all_reduce(self._packed, async_op=True)

    def counts_K(self) -> Tensor:
        """The global counts of this step."""
        self._work.wait()
        tasks = len(self.tasks)
        flags = self._packed[tasks:]
        self._seen_step = self._packed_step
        if self.device.type == "cuda":
            self._seen = self._host.copy_(flags, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._seen = flags
        return self._packed[:tasks].float()

    def record(self, step: int, sums_K: Tensor, gradient_norm: Tensor) -> None:
        """Remember whether this step's losses and dense gradients are finite; they travel with the next step."""
        self._flags = torch.cat([~torch.isfinite(sums_K.detach()), ~torch.isfinite(gradient_norm).reshape(1)]).double()
        self._flags_step = step

    def synchronize(self) -> None:
        """Wait until the last noted step is known, over all ranks.

        Raises:
            DivergedError: it was not finite.
        """
        self._read()
        flags = self._flags.clone()
        dist.all_reduce(flags)
        self._seen, self._seen_step, self._arrived = flags.cpu(), self._flags_step, None
        self._read()

    def _read(self) -> None:
        if self._seen is None:
            return
        if self._arrived is not None:
            self._arrived.synchronize()
        flags, requests = self._seen[: len(self.tasks) + 1], self._seen[len(self.tasks) + 1 :].tolist()
        if requests:  # empty after `settle`, which reduces flags only
            self._stop, self._save = self._stop or requests[0] > 0, self._save or requests[1] > 0
        bad = torch.nonzero(flags).flatten().tolist()
        self._seen = None
        if not bad:
            return
        names = [self.tasks[i] for i in bad if i < len(self.tasks)]
        losses = f"the loss{'es' * (len(names) > 1)} of task{'s' * (len(names) > 1)} {', '.join(names)}"
        what = losses if names else "the dense gradients"
        raise DivergedError(
            f"step {self._seen_step}",
            f"{what} {'is' if len(names) <= 1 and names else 'are'} not finite",
            "training stops, since the step has already reached the tables",
            "train again with a smaller learning rate, a warm-up or dense_optimizer.clip_norm, and look at the inputs",
        )
