from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from ple_rec.config.model import Activation
from ple_rec.modules.experts import ACTIVATIONS, Mlp


@pytest.mark.parametrize(
    ("name", "module"), [("relu", nn.ReLU()), ("gelu", nn.GELU()), ("silu", nn.SiLU()), ("tanh", nn.Tanh())]
)
def test_layers_and_activation(name: str, module: nn.Module) -> None:
    mlp = Mlp(3, (5, 4), 2, name, dropout=0.0)
    plain = nn.Sequential(nn.Linear(3, 5), module, nn.Linear(5, 4), module, nn.Linear(4, 2))
    for index, layer in zip((0, 2, 4), mlp.layers, strict=True):
        plain[index].load_state_dict(layer.state_dict())
    x_BD = torch.randn(6, 3)
    torch.testing.assert_close(mlp(x_BD), plain(x_BD))


def test_without_hidden_layers_it_is_linear() -> None:
    mlp = Mlp(3, (), 1, "relu", dropout=0.9)
    assert len(mlp.layers) == 1
    weight, bias = mlp.parameters()
    torch.testing.assert_close(mlp(torch.eye(3)), weight.T + bias)
    assert mlp.flops_per_sample() == 6


def test_dropout_scales_what_it_keeps_in_training_only() -> None:
    mlp = Mlp(1, (2000,), 1, "relu", dropout=0.25).double()
    for parameter in mlp.parameters():
        nn.init.constant_(parameter, 1.0 if parameter.ndim == 2 else 0.0)
    torch.manual_seed(0)
    kept = mlp(torch.ones(1, 1, dtype=torch.float64)).item() * 0.75
    assert kept == pytest.approx(round(kept), abs=1e-3)  # each kept value counts 1 / 0.75
    assert 1400 < kept < 1600
    assert mlp.eval()(torch.ones(1, 1, dtype=torch.float64)).item() == 2000


def test_activations_are_those_of_the_configuration() -> None:
    assert set(ACTIVATIONS) == set(get_args(Activation))


def test_under_autocast_the_last_layer_keeps_the_precision_of_its_weights() -> None:
    torch.manual_seed(0)
    mlp = Mlp(8, [16], 1, "relu", 0.0)
    x_BD = torch.randn(4096, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = mlp(x_BD)
    assert out.dtype == torch.float32
    assert len(out.unique()) > 3000  # in bfloat16 a few hundred
    torch.testing.assert_close(out, mlp(x_BD), rtol=0.05, atol=0.02)
