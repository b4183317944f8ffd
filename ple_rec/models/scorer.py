"""From x to logits: the extraction network and a tower per task.

Shape suffixes: B batch, K tasks, O outputs, E experts, D width of x.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ple_rec.config.model import ModelConfig
from ple_rec.modules.experts import ExpertBank, Mlp
from ple_rec.modules.extraction import ExtractionNetwork
from ple_rec.modules.grouped import Inputs, parts_of, with_parts
from ple_rec.modules.mixing import SoftmaxGates


class Scorer(nn.Module):
    """`y_k` = extraction(x), `logit_k = t_k(y_k)`.

    Args:
        extraction: The experts and their mixings.
        towers: One per task.
        config: Configuration with the dropouts.
        autocast: Flag that matrix products run in bfloat16.
    """

    def __init__(
        self, extraction: ExtractionNetwork, towers: nn.ModuleList, config: ModelConfig, *, autocast: bool
    ) -> None:
        super().__init__()
        self.extraction, self.towers, self.autocast = extraction, towers, autocast
        self.converted = False  # whether weights were converted to bfloat16, which autocast else does at every call
        self.input_dropout = config.input_dropout
        self.draws = max(config.input_dropout, config.dropout, config.tower.dropout) > 0

    def forward(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """x_BD -> logits_BK and A_BOE of every level."""
        # Its parts are those of the model, which `train` and `eval` reach; it is not one itself.
        if self.input_dropout and self.extraction.training:  # which draws for each sample
            whole_BD = x_BD if isinstance(x_BD, Tensor) else x_BD.whole()
            x_BD = F.dropout(whole_BD, self.input_dropout)
        if self.converted:
            x_BD = with_parts(x_BD, [part.bfloat16() for part in parts_of(x_BD)])
        with torch.autocast(x_BD.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            outputs, gates = self.extraction(x_BD)
            logits_BK = torch.cat([tower(y_BH) for tower, y_BH in zip(self.towers, outputs, strict=True)], dim=1)
        return logits_BK.float() if self.autocast else logits_BK, gates

    def convert(self) -> None:
        """Convert, once and for prediction alone, the weights of matrix products to bfloat16."""
        self.autocast, self.converted = False, True
        for module in self.modules():
            if isinstance(module, ExpertBank | SoftmaxGates):
                weights = [*module.parameters()]
            elif isinstance(module, Mlp):  # its last layer stays in fp32
                weights = [*module.layers[:-1].parameters()]
            else:
                continue
            for weight in weights:
                weight.data = weight.data.bfloat16()
