"""From x to logits: the extraction network and a tower per task.

Shape suffixes: B batch, K tasks, O outputs, E experts, D width of x.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ple_rec.config.model import ModelConfig
from ple_rec.modules.extraction import ExtractionNetwork
from ple_rec.modules.grouped import Inputs
from ple_rec.modules.mlp import side_by_side


class Scorer(nn.Module):
    """`y_k` = extraction(x), `logit_k = t_k(y_k)`.

    Args:
        extraction: The experts and their mixings.
        towers: One per task.
        config: Whose dropouts it has.
        autocast: Whether matrix products run in bfloat16.
    """

    def __init__(
        self, extraction: ExtractionNetwork, towers: nn.ModuleList, config: ModelConfig, *, autocast: bool
    ) -> None:
        super().__init__()
        self.extraction, self.towers, self.autocast = extraction, towers, autocast
        self.input_dropout = config.input_dropout
        self.draws = max(config.input_dropout, config.dropout, config.tower.dropout) > 0

    def forward(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """x_BD -> logits_BK and A_BOE of every level."""
        # Its parts are those of the model, which `train` and `eval` reach; it is not one itself.
        if self.input_dropout and self.extraction.training:  # which draws for each sample
            whole_BD = x_BD if isinstance(x_BD, Tensor) else x_BD.whole()
            x_BD = F.dropout(whole_BD, self.input_dropout)
        with torch.autocast(x_BD.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            outputs, gates = self.extraction(x_BD)
            logits_BK = side_by_side([*self.towers], outputs)
        return logits_BK.float() if self.autocast else logits_BK, gates
