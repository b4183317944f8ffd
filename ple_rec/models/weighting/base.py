"""What every weighting of the tasks' losses is.

Shape suffixes: K tasks.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn


class Weighting(nn.Module):
    """L from the losses L_k of the tasks; its parameters, where it has any, are trained with the dense layers."""

    @abstractmethod
    def weights(self, scheduled_K: Tensor) -> Tensor:
        """The factor of each L_k in L as it stands, for logs: dL/dL_k."""

    @abstractmethod
    def forward(self, losses_K: Tensor, scheduled_K: Tensor, present_K: Tensor) -> Tensor:
        """L.

        Args:
            losses_K: L_k. On W ranks each rank hands W times its part: L is linear in L_k, so that the mean over
                ranks, which is what data parallelism takes, is the L of the global batch.
            scheduled_K: w_k(t) of Eq. 10.
            present_K: Whether the global batch has a sample in task k's space; where not, k adds exactly 0.
        """
