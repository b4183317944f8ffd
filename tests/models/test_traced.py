"""The graph of a scorer: the same scores, whatever the rows, and weights that are no part of it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from ple_rec.config.base import Config
from ple_rec.config.model import ModelConfig
from ple_rec.models import traced
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.scorer import Scorer
from ple_rec.modules import fused_linear
from ple_rec.modules.fused_linear import linear_relu
from ple_rec.modules.grouped import Grouped, Inputs, SharedColumns, cut
from ple_rec.modules.normalise import DenseStatistics
from tests.models.test_blocks import SIZES, TASKS, WIDTH

FAST = ("hard_sharing", "sluice", "ple")
VARIANTS = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SIZES]
USER = (0, 1, 2, 7)  # columns of x


def _model(variant: str = "ple", seed: int = 3, user: tuple[int, ...] = USER, **changes: Any) -> MultiTaskModel:
    adapter: TypeAdapter[Config] = TypeAdapter(ModelConfig)
    settings = {"variant": variant, "tower": {"hidden": [5]}, "activation": "relu", **SIZES[variant], **changes}
    config: Any = adapter.validate_python(settings, strict=False)
    torch.manual_seed(seed)
    return MultiTaskModel(config, TASKS, None, [DenseStatistics("none")] * WIDTH, request_dense=user).eval()


def _x(rows: int, columns: SharedColumns | None) -> Inputs:
    """Rows of random numbers; with columns, in requests of 7."""
    x_BD = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(rows))
    if columns is None:
        return x_BD
    return Grouped.of(x_BD, torch.arange(rows) // 7, torch.arange(0, rows, 7), columns)


def begun(model: MultiTaskModel, x: Inputs) -> Callable[[], tuple[torch.Tensor, list[torch.Tensor]]]:
    return model.begin_score(len(x), lambda rows: cut(x, rows)[0])


def scored(model: MultiTaskModel, grouped: bool) -> list[torch.Tensor]:
    """Logits and gates, of batches of several sizes."""
    columns = model.shared_columns if grouped else None
    found = [begun(model, _x(rows, columns))() for rows in (1, 2, 7, 130, 131)]
    return [tensor for logits_BK, gates in found for tensor in (logits_BK, *gates)]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_scores_are_those_of_the_scorer(variant: str, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, but for products in fp32 that only a graph has as one operation."""
    model = _model(variant)
    model.run_in_blocks(2)
    expected = scored(model, grouped)
    model.trace()
    for found, own in zip(scored(model, grouped), expected, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(fused_linear, "_OPERATIONS", {})
    monkeypatch.setattr(traced, "_GRAPHS", {})
    model.trace()
    assert all(torch.equal(found, own) for found, own in zip(scored(model, grouped), expected, strict=True))


# Of what is packed: x, and an item's part of x; deeper layers of all experts; first layers of the second level; towers.
PACKED = {
    1: {(32, 32), (24, 8, 1, 1), (32, 6, 1, 1), (15, 6, 1, 1)},  # first layers of four streams that are alike, as one
    2: {(40, 32), (30, 8, 1, 1), (8, 32), (16, 32), (15, 6, 1, 1)},  # a task's, and those of the shared experts
}


@pytest.mark.parametrize("shared", PACKED)
@torch.no_grad()
def test_weights_are_cast_and_packed_ahead(shared: int) -> None:
    model = _model(levels=[{"task_experts": 1, "shared_experts": shared, "expert_hidden": [8, 6]}] * 2)
    model._scorer.autocast = True
    xs = [_x(rows, columns) for rows in (3, 140) for columns in (None, model.shared_columns)]
    model.run_in_blocks(2)
    expected = [begun(model, x)()[0] for x in xs]
    model.trace()
    graphs = model.blocks().traced
    assert graphs is not None
    weights = [*graphs._whole.weights, *graphs._grouped.weights]
    shapes = {(5, 6): torch.bfloat16, (1, 5): torch.float32, (1,): torch.float32}  # of towers: logits are fp32
    if linear_relu(torch.bfloat16):
        shapes = {(15, 6, 1, 1): torch.bfloat16, (3,): torch.float32}  # of all towers
    for shape, dtype in shapes.items():
        assert {weight.dtype for weight in weights if weight.shape == shape} == {dtype}
    packed = {tuple(weight.shape) for weight in weights if weight.is_mkldnn}
    assert packed == (PACKED[shared] if linear_relu(torch.bfloat16) else set())
    for x, own in zip(xs, expected, strict=True):  # packed weights may sum in another order; bf16 rounds that
        torch.testing.assert_close(begun(model, x)()[0], own, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("user", [(), tuple(range(WIDTH))], ids=["nothing is the user's", "all is"])
@torch.no_grad()
def test_requests_may_share_nothing_or_all(user: tuple[int, ...]) -> None:
    model = _model(user=user)
    model.run_in_blocks(2)
    xs = [_x(rows, columns) for rows in (3, 140) for columns in (None, model.shared_columns)]
    expected = [begun(model, x)()[0] for x in xs]
    model.trace()
    for x, own in zip(xs, expected, strict=True):
        torch.testing.assert_close(begun(model, x)()[0], own, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_models_of_one_architecture_share_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "_GRAPHS", {})
    models = [_model(seed=1), _model(seed=2), _model(seed=1, activation="tanh")]
    x_BD = _x(9, None)
    expected = [model.score(x_BD)[0] for model in models]
    counts = []
    for model in models:
        model.run_in_blocks(1)
        model.trace()
        counts.append(len(traced._GRAPHS))
    assert counts == [2, 2, 4]
    assert not torch.equal(expected[0], expected[1])
    for model, own in zip(models, expected, strict=True):  # a graph may sum in another order
        torch.testing.assert_close(begun(model, x_BD)()[0], own, rtol=1e-5, atol=1e-6)
    first = weakref.ref(models[0].extraction)
    del models[0], model
    gc.collect()
    assert first() is None
    functions: list[Any] = [stage.graph for found in traced._GRAPHS.values() for stage in found]
    for function in functions:  # torch never frees it, nor what it holds
        nodes = [*function.graph.nodes()]
        held = [node for node in nodes if node.kind() == "prim::Constant" and node.hasAttribute("value")]
        assert all(node.kindOf("value") != "t" or node.t("value").numel() <= 1 for node in held)


def _references(tensor: Any) -> int:
    """To what it is outside of the interpreter, which has one."""
    count: int = tensor._use_count()
    return count


@torch.no_grad()
def test_graphs_never_take_the_lock_for_a_weight() -> None:
    """As they do for one that nothing else refers to from outside of the interpreter."""
    model = _model()
    model.trace()
    graphs = model.blocks().traced
    assert graphs is not None
    gc.collect()
    for prepared in (graphs._whole, graphs._grouped):
        assert min(map(_references, prepared.weights)) > 1
    assert _references(torch.zeros(1)) == 1


@pytest.mark.parametrize("user", [(), USER, tuple(range(WIDTH))], ids=["nothing", "some", "all"])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_products_have_a_row_for_each_request(variant: str, user: tuple[int, ...]) -> None:
    model = _model(variant, user=user)
    model.run_in_blocks(1)
    assert model.products(torch.zeros(1, len(user))) is None
    model.trace()
    model.block_rows = 5  # of 7 items a request
    model.run_in_blocks(2)
    model.trace()
    x = _x(40, model.shared_columns)
    assert isinstance(x, Grouped)
    for requests in (1, 2, 3):
        products = model.products(torch.zeros(requests, len(user)))
        assert products
        assert {len(product) for product in products} == {requests}
    expected, gates = begun(model, x)()
    known = replace(x, products=model.products(x.shared_RU))
    found, of_known = begun(model, known)()
    for own, other in zip([found, *of_known], [expected, *gates], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_small_requests_take_the_graph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    model.run_in_blocks(2)
    model.trace()
    monkeypatch.setattr(Scorer, "forward", None)
    for rows in (3, 300):
        assert begun(model, _x(rows, model.shared_columns))()[0].shape == (rows, 3)


@torch.no_grad()
def test_batches_that_begin_before_others_end_are_scored_as_alone() -> None:
    model = _model()
    model.run_in_blocks(2)
    for trace in (False, True):
        if trace:
            model.trace()
        xs = [_x(rows, model.shared_columns) for rows in (300, 5, 129, 256, 1)]
        alone = [begun(model, x)()[0] for x in xs]  # not `score`: below 128 rows that takes the layers, not the graph
        waits = [begun(model, x) for x in xs]
        found = [wait()[0] for wait in reversed(waits)]
        assert all(map(torch.equal, reversed(found), alone))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_no_rows_have_no_scores(variant: str, grouped: bool) -> None:
    model = _model(variant)
    x = cut(_x(7, model.shared_columns if grouped else None), slice(0, 0))[0]
    for threads in (1, 2):
        model.run_in_blocks(threads)
        expected = begun(model, _x(1, None))()
        for trace in (False, True):
            if trace:
                model.trace()
            logits_BK, gates = begun(model, x)()
            assert logits_BK.shape == (0, len(TASKS))
            assert [gate.shape[1:] for gate in gates] == [gate.shape[1:] for gate in expected[1]]
