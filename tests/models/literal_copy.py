"""Which part of the program's parameters is which parameter of a literal model, and the comparison of the two."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.experts import Mlp
from ple_rec.modules.extraction import ExtractionLevel
from ple_rec.modules.mixing import ChannelStitch, SoftmaxGates, SubspaceMixing
from ple_rec.modules.routing import Routing
from tests.models.literal import Literal, Mixes
from tests.models.samples import dense_batch

BATCH = 9
Extract = Callable[[Tensor], Tensor]


def slices(model: MultiTaskModel, of: Extract = lambda p: p) -> dict[str, Tensor]:
    """Every parameter of `model` cut into the literal's, by the literal's name.

    Args:
        model: Of any variant.
        of: What to cut: a parameter, or its gradient.
    """
    out: dict[str, Tensor] = {}
    for j, level in enumerate(model.extraction.levels):
        assert isinstance(level, ExtractionLevel)
        _experts(out, f"levels.{j}", level, of)
        if isinstance(level.mixing, SoftmaxGates):
            _gates(out, f"levels.{j}", level.routing, [of(matrix) for matrix in level.mixing.weights])
        elif isinstance(level.mixing, SubspaceMixing | ChannelStitch):
            _stitches(out, f"levels.{j}", level, of(level.mixing.weight))
    if model.extraction.level_mixing is not None:
        logits: Tensor = model.extraction.level_mixing.logits
        for task, row in zip(model.tasks, of(logits), strict=True):
            out |= {f"beta.{task}.{j}": value for j, value in enumerate(row)}
    for task, tower in zip(model.tasks, model.towers, strict=True):
        assert isinstance(tower, Mlp)
        for i, layer in enumerate(tower.layers):
            assert isinstance(layer, nn.Linear)
            out[f"towers.{task}.{2 * i}.weight"] = of(layer.weight)
            out[f"towers.{task}.{2 * i}.bias"] = of(layer.bias)
    return out


def _experts(out: dict[str, Tensor], place: str, level: ExtractionLevel, of: Extract) -> None:
    """First layers: per stream one matrix, its experts below one another. Deeper layers: one stack."""
    routing, bank = level.routing, level.experts
    names = [f"{place}.experts.{name}.layers" for name in routing.experts]
    first = routing.hidden[0]
    weights, biases = (
        [piece for matrix in matrices for piece in of(matrix).split(first)]
        for matrices in (bank.first_weights, bank.first_biases)
    )
    for name, weight, bias in zip(names, weights, biases, strict=True):
        out[f"{name}.0.weight"], out[f"{name}.0.bias"] = weight, bias
    for i, (stack, bias_stack) in enumerate(zip(bank.deep_weights, bank.deep_biases, strict=True), start=1):
        for name, weight, bias in zip(names, of(stack), of(bias_stack), strict=True):
            out[f"{name}.{i}.weight"], out[f"{name}.{i}.bias"] = weight, bias


def _gates(out: dict[str, Tensor], place: str, routing: Routing, weights: Sequence[Tensor]) -> None:
    """Per selector stream one matrix, its gates below one another; none where an output reads a single expert."""
    gated = {
        output: (selector, sum(row))
        for output, row, selector in zip(routing.outputs, routing.edges_OE, routing.selector_O, strict=True)
        if sum(row) > 1
    }
    streams = sorted({selector for selector, _ in gated.values()})
    for stream, matrix in zip(streams, weights, strict=True):
        here = {output: rows for output, (selector, rows) in gated.items() if selector == stream}
        for output, weight in zip(here, matrix.split(list(here.values())), strict=True):
            out[f"{place}.gates.{_bare(output)}.weight"] = weight


def _bare(output: str) -> str:
    """Without the level of the expert that an output is for: `level 2 shared.0` -> `shared.0`."""
    return output.split()[-1]


def _stitches(out: dict[str, Tensor], place: str, level: ExtractionLevel, weight: Tensor) -> None:
    """One matrix, or vector of channels, of all pairs; with subspaces every task stands there once per subspace."""
    tasks, parts = level.routing.outputs, level.routing.subspaces
    if level.routing.mixing == "subspaces":
        names = [f"{task}.{part}" for task in tasks for part in range(parts)]
    else:
        names = list(tasks)
    for name, row in zip(names, weight, strict=True):
        out |= {f"{place}.alpha.{name}.{other}": value for other, value in zip(names, row, strict=True)}


def copy_into(literal: Literal, model: MultiTaskModel) -> set[str]:
    """Give the literal the model's weights; the names of the literal's parameters that the model does not have."""
    own = dict(literal.named_parameters())
    with torch.no_grad():
        for name, value in slices(model).items():
            assert own[name].shape == value.shape, name
            own.pop(name).copy_(value)
    return set(own)


def assert_same(
    model: MultiTaskModel, literal: Literal, width: int, left_out: Collection[str] = ()
) -> dict[str, Tensor]:
    """Parameters, outputs, A, penalty and all gradients of a model are those of its definition, in fp64.

    Args:
        model: In fp64.
        literal: The definition.
        width: Of x.
        left_out: Parameters that the definition has and the program leaves out, because they have no effect.

    Returns:
        The gradients, by the literal's names.
    """
    assert copy_into(literal, model) == set(left_out)
    dead = sum(p.numel() for name, p in literal.named_parameters() if name in left_out)
    assert model.dense_parameters() == sum(p.numel() for p in literal.parameters()) - dead
    assert sum(value.numel() for value in slices(model).values()) == sum(p.numel() for p in model.parameters())

    x_BD = torch.randn(BATCH, width, dtype=torch.float64)
    ours_BD, theirs_BD = x_BD.clone().requires_grad_(), x_BD.clone().requires_grad_()
    logits_BK, gates = model(dense_batch(ours_BD))
    expected_BK = literal(theirs_BD)
    torch.testing.assert_close(logits_BK, expected_BK, rtol=1e-12, atol=1e-13)
    _assert_same_mixes(model, gates, literal.mixes)
    ours, theirs = model.extraction.penalty(), literal.penalty()
    assert (ours is None) == (not theirs)
    ours = torch.zeros_like(theirs) if ours is None else ours
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)

    weights_BK = torch.randn(logits_BK.shape, dtype=torch.float64)
    ((logits_BK.sin() * weights_BK).sum() + ours).backward()
    ((expected_BK.sin() * weights_BK).sum() + theirs).backward()
    torch.testing.assert_close(ours_BD.grad, theirs_BD.grad, rtol=1e-11, atol=1e-13)
    gradients = slices(model, of=_gradient)
    for name, parameter in literal.named_parameters():
        if name in left_out:
            assert _gradient(parameter).abs().max() < 1e-15, name
        else:
            assert torch.allclose(gradients[name], _gradient(parameter), rtol=1e-11, atol=1e-13), name
    return gradients


def _assert_same_mixes(model: MultiTaskModel, gates: Sequence[Tensor], expected: Sequence[Mixes]) -> None:
    """Every A holds, at the names of its legend, the factors of the definition, and no name is there in vain."""
    for legend, a_BOE, mixes in zip(model.extraction.gate_labels, gates, expected, strict=True):
        pairs = [(_bare(output), expert) for output in legend.outputs for expert in legend.experts]
        read = dict(zip(pairs, (r for row in legend.edges_OE for r in row), strict=True))
        assert {pair for pair in pairs if read[pair]} == set(mixes)
        zero = torch.zeros((), dtype=a_BOE.dtype)
        wanted_BN = torch.stack([mixes.get(pair, zero).expand(BATCH) for pair in pairs], dim=1)
        torch.testing.assert_close(a_BOE.reshape(BATCH, -1), wanted_BN, rtol=1e-12, atol=1e-14)
        assert a_BOE.shape == (BATCH, len(legend.outputs), len(legend.experts))


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def gradients_of_task(model: MultiTaskModel, x_BD: Tensor, task: int) -> dict[str, Tensor]:
    """Of one task's loss, zero where there is none, by the literal's names."""
    model.zero_grad()
    logits_BK, _ = model(dense_batch(x_BD))
    logits_BK[:, task].square().sum().backward()
    return slices(model, of=lambda p: torch.zeros_like(p) if p.grad is None else p.grad.clone())
