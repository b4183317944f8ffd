"""What holds for every variant, of any size."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ple_rec.config.model import AsymmetricConfig
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.extraction import ExtractionLevel
from ple_rec.modules.routing import Routing
from tests.models.literal_copy import slices
from tests.models.samples import EVERY, dense_batch, dense_model, every_variant, fp32_model
from tests.models.strategies import models


@pytest.mark.parametrize("variant", EVERY)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data(), random=st.randoms(use_true_random=False))
def test_permuted_tasks_permute_the_outputs(variant: str, data: st.DataObject, random: Random) -> None:
    tasks, config = data.draw(models(variant))
    order = list(range(len(tasks)))
    random.shuffle(order)
    model, permuted = dense_model(config, tasks, 3), dense_model(config, [tasks[k] for k in order], 3, seed=9)
    with torch.no_grad():
        for name, value in slices(model).items():
            if ".alpha." in name or name.startswith("beta."):
                value += torch.randn_like(value)
        source = slices(model)
        for name, value in slices(permuted).items():
            if name.endswith("gates.shared.weight"):  # its rows stand in the order of all experts
                level = int(name.split(".")[1])
                rows = [list(_routing(model, level).experts).index(e) for e in _routing(permuted, level).experts]
                value.copy_(source.pop(name)[rows])
            elif isinstance(config, AsymmetricConfig) and name.startswith("towers") and name.endswith(".0.weight"):
                task = name.split(".")[1]  # the experts that it reads stand in the order of the tasks
                width = value.shape[1] // (len(_read(model, task)) if config.combine == "concat" else 1)
                blocks = dict(zip(_read(model, task), source.pop(name).split(width, dim=1), strict=False))
                value.copy_(torch.cat([blocks[e] for e in _read(permuted, task) if e in blocks], dim=1))
            else:
                value.copy_(source.pop(name))
    assert not source
    x_BD = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    torch.testing.assert_close(permuted(dense_batch(x_BD))[0], model(dense_batch(x_BD))[0][:, order])


@pytest.mark.parametrize("variant", EVERY)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_parameter_has_a_gradient(variant: str, data: st.DataObject) -> None:
    tasks, config = data.draw(models(variant))
    model = dense_model(config, tasks, 3)
    x_BD = torch.linspace(-2, 1, 12, dtype=torch.float64).view(4, 3)
    model(dense_batch(x_BD))[0].square().sum().backward()
    ungraded = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert ungraded == []  # the average over ranks takes the gradients of all parameters
    if variant != "ple":  # where a stream of its lower levels may have no reader
        assert [name for name, parameter in model.named_parameters() if not _gradient(parameter).any()] == []


@pytest.mark.parametrize("variant", EVERY)
def test_bf16_keeps_precision_where_it_counts_and_says_nearly_the_same(variant: str) -> None:
    config = every_variant((32, 16), (8,))[variant]
    exact = fp32_model(config, ("a", "b"), 12)
    x_BD = torch.randn(64, 12)
    model = fp32_model(config, ("a", "b"), 12, precision="bf16")
    logits_BK, gates = model(dense_batch(x_BD))
    expected_BK, expected = exact(dense_batch(x_BD))
    assert logits_BK.dtype == torch.float32
    assert {a_BOE.dtype for a_BOE in gates} == {torch.float32}
    assert not torch.equal(logits_BK, expected_BK)
    torch.testing.assert_close(logits_BK, expected_BK, rtol=0.05, atol=0.01)
    for a_BOE, expected_BOE in zip(gates, expected, strict=True):
        torch.testing.assert_close(a_BOE, expected_BOE, rtol=0.02, atol=0.005)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, _ = model.extraction(x_BD)
    assert {y_BH.dtype for y_BH in outputs} == {torch.bfloat16}
    _backward(model, logits_BK)
    _backward(exact, expected_BK)
    assert {p.dtype for p in model.parameters()} == {_gradient(p).dtype for p in model.parameters()} == {torch.float32}
    ours, theirs = (torch.cat([_gradient(p).flatten() for p in of.parameters()]) for of in (model, exact))
    assert (ours - theirs).norm() < 0.05 * theirs.norm()


@pytest.mark.parametrize("variant", EVERY)
def test_what_the_towers_read_and_every_a_fit_their_description(variant: str) -> None:
    model = dense_model(every_variant((6, 4), (3,))[variant], ("a", "b"), 5)
    outputs, gates = model.extraction(torch.randn(7, 5, dtype=torch.float64))
    assert [y_BH.shape for y_BH in outputs] == [(7, width) for width in model.extraction.widths]
    assert len(gates) == len(model.extraction.gate_labels)
    for legend, a_BOE in zip(model.extraction.gate_labels, gates, strict=True):
        assert a_BOE.shape == (7, len(legend.outputs), len(legend.experts))
        assert len(set(legend.outputs)) == len(legend.outputs)
        assert len(set(legend.experts)) == len(legend.experts)
        assert torch.equal(a_BOE != 0, torch.tensor(legend.edges_OE).expand_as(a_BOE))


def _routing(model: MultiTaskModel, level: int) -> Routing:
    part = model.extraction.levels[level]
    assert isinstance(part, ExtractionLevel)
    return part.routing


def _read(model: MultiTaskModel, task: str) -> list[str]:
    """The experts that a task of a one-level model reads, in their order."""
    routing = _routing(model, 0)
    row = routing.edges_OE[routing.outputs.index(task)]
    return [expert for expert, read in zip(routing.experts, row, strict=True) if read]


def _backward(model: MultiTaskModel, logits_BK: Tensor) -> None:
    penalty = model.extraction.penalty()
    assert penalty is None or penalty.dtype == torch.float32
    (logits_BK.square().mean() + (0.0 if penalty is None else penalty)).backward()


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
