"""Attention over histories in the model: x written down literally, requests, precision, costs, and models without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ple_rec.config.run import DataConfig, EmbeddingsConfig, RunConfig, TrainConfig
from ple_rec.config.schema import DenseFeature, HistoryFeature, HistoryItem, SparseFeature
from ple_rec.data.batch import Batch, Requests
from ple_rec.errors import UserError
from ple_rec.models.build import build_model
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.grouped import GroupedInputs
from tests.models.literal_din import literal_attention
from tests.models.samples import every_variant, pooled_by_hand, sparse_batch

DIM = 4


def history(name: str, items: Sequence[str], length: int) -> HistoryFeature:
    entries = tuple(HistoryItem(feature=item, table=item) for item in items)
    return HistoryFeature(name=name, items=entries, length=length, age_edges=(60,), events=10)


HISTORIES = (history("liked", ("video", "author"), 4), history("shared", ("author",), 2))
SPARSE = (
    SparseFeature(name="video", table="video"),
    SparseFeature(name="user", table="user"),
    SparseFeature(name="author", table="author"),
    # Bags of a table that is pooled, and of one that a history reads.
    SparseFeature(name="friends", table="user", bag=True),
    SparseFeature(name="guests", table="author", bag=True, weights="guests_weights"),
)
ROWS = {"user": 5, "video": 9, "author": 6, "liked_age": 3, "shared_age": 3}
# Two requests of three and two samples, and padding, which has no ids.
FIRST = (0, 3, 5)
REQUEST = (0, 0, 0, 1, 1, 2)
BAGS: dict[str, list[list[int]]] = {
    "video": [[1], [2], [3], [4], [8], []],
    "user": [[1], [1], [1], [2], [2], []],
    "author": [[1], [0], [2], [2], [5], []],
    "friends": [[1, 2], [], [3], [4, 4], [0], []],
    "guests": [[1, 2], [3], [], [4, 5], [0, 0], []],
    "liked.video": [[1, 2, 3, 1]] * 3 + [[5]] * 2 + [[]],
    "liked.author": [[1, 2, 0, 1]] * 3 + [[4]] * 2 + [[]],
    "liked_age": [[2, 2, 1, 1]] * 3 + [[2]] * 2 + [[]],
    "shared.author": [[]] * 3 + [[3, 1]] * 2 + [[]],
    "shared_age": [[]] * 3 + [[1, 1]] * 2 + [[]],
}
WEIGHTS = {"guests": [[0.5, 2.0], [1.5], [], [1.0, 0.0], [0.25, 0.25], []]}
REQUEST_FEATURES = ("user", "liked", "shared")


def build(
    changes: dict[str, Any] | None = None,
    *,
    histories: Sequence[HistoryFeature] = HISTORIES,
    request_features: Sequence[str] = (),
    embeddings: dict[str, Any] | None = None,
    precision: Any = "fp32",
) -> MultiTaskModel:
    model = every_variant((6,), (3,))["mmoe"].model_copy(update={"history": "din"} | (changes or {}))
    config = RunConfig(
        name="run",
        data=DataConfig(path="dataset", request_features=tuple(request_features)),
        embeddings=EmbeddingsConfig.model_validate({"dim": DIM} | (embeddings or {})),
        model=model,
        train=TrainConfig(batch_size=8, steps=1),
    )
    return build_model(
        config,
        tasks=["a", "b"],
        losses=["cross_entropy", "mse"],
        sparse=(*SPARSE, *(column for each in histories for column in each.columns())),
        dense=(DenseFeature(name="age", normaliser="none"),),
        table_rows=ROWS,
        statistics={},
        histories=histories,
        device=torch.device("cpu"),
        table_device=torch.device("cpu"),
        precision=precision,
    )


def batch(bags: dict[str, list[list[int]]] | None = None) -> Batch:
    made = sparse_batch(BAGS | (bags or {}), WEIGHTS)
    return replace(made, dense_BF=torch.arange(6.0)[:, None])


def by_request(shared: Sequence[str]) -> Batch:
    """The same samples, where only the first one of a request has the ids of features that the samples share."""
    only_first = {
        name: [bag if i in FIRST else [] for i, bag in enumerate(bags)]
        for name, bags in BAGS.items()
        if name.split(".")[0].removesuffix("_age") in shared
    }
    return replace(batch(only_first), requests=Requests(torch.tensor(REQUEST), torch.tensor(FIRST)))


def tables(model: MultiTaskModel) -> dict[str, Tensor]:
    """The rows of each table."""
    return {
        name.split(".")[2]: weight
        for name, weight in model.named_parameters()
        if name.startswith(("embeddings.", "sequences."))
    }


def x_by_hand(model: MultiTaskModel, *, mean: bool) -> Tensor:
    """x of the batch, a feature and a sample at a time."""
    rows, tables_of = tables(model), {feature.name: feature.table for feature in SPARSE}
    parts = [
        pooled_by_hand(rows[tables_of[name]], BAGS[name], WEIGHTS.get(name), mean=mean and len(BAGS[name][0]) > 1)
        # Features of pooled tables come first, then those of the others, in the order of the tables.
        for name in ("user", "friends", "video", "author", "guests")
    ]
    parts.append(torch.arange(6.0)[:, None])
    for unit, each in zip(model.attentions, HISTORIES, strict=True):
        events = [
            [
                torch.cat([rows[column.table][BAGS[column.name][i][j]] for column in each.columns()])
                for j in range(len(BAGS[each.columns()[0].name][i]))
            ]
            for i in range(6)
        ]
        targets = torch.cat([pooled_by_hand(rows[item.table], BAGS[item.feature]) for item in each.items], dim=1)
        parts.append(literal_attention(unit, events, targets.unbind()))  # type: ignore[arg-type]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_x_and_its_gradients_are_those_of_the_equations(pooling: str) -> None:
    model = build(embeddings={"pooling": pooling})
    x, expected = model.inputs(batch()), x_by_hand(model, mean=pooling == "mean")
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-7)
    factors = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    weights = [*tables(model).values(), *model.attentions.parameters()]
    gradients = [torch.autograd.grad((each * factors).sum(), weights) for each in (x, expected)]
    assert len(weights) == len(ROWS) + len(list(model.attentions.parameters()))
    for gradient, literal in zip(*gradients, strict=True):
        assert literal.any()
        torch.testing.assert_close(gradient, literal, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shared", [REQUEST_FEATURES, ("user", "liked"), ("user", "author", "liked"), ("author",)])
def test_requests_change_nothing(shared: tuple[str, ...]) -> None:
    """Histories are shared or not, and so is a feature of an item; the rows of `author` are made equal for that."""
    authors = {"author": [[1], [1], [1], [2], [2], []]} if "author" in shared else {}
    whole, grouped = batch(authors), by_request(shared)
    if authors:
        only_first = {"author": [bag if i in FIRST else [] for i, bag in enumerate(authors["author"])]}
        names = [name for name in BAGS if name.split(".")[0].removesuffix("_age") in shared]
        bags = {name: [bag if i in FIRST else [] for i, bag in enumerate(BAGS[name])] for name in names}
        grouped = replace(batch(bags | only_first), requests=grouped.requests)
    model = build(request_features=shared)
    results = []
    for each in (whole, grouped):
        logits = model(each)[0]
        weights = [*tables(model).values(), *model.attentions.parameters()]
        results.append([logits, *torch.autograd.grad(logits.square().sum(), weights)])
    assert isinstance(model.grouped_inputs(grouped), GroupedInputs)
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


def test_a_shared_history_is_multiplied_once_for_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(request_features=("user", "liked"))
    shapes = []
    for unit in model.attentions:
        unit.register_forward_pre_hook(lambda _, inputs: shapes.append([tuple(x.shape) for x in inputs[:2]]))
    model(by_request(("user", "liked")))
    assert shapes == [[(3, 4, 3 * DIM), (6, 2 * DIM)], [(6, 2, 2 * DIM), (6, DIM)]]


def test_flops_and_parameters_are_those_of_torch() -> None:
    model = build()
    with FlopCounterMode(display=False) as counter:
        model(batch())
    assert counter.get_total_flops() == 6 * model.flops_per_sample()
    outside = [p for name, p in model.named_parameters() if not name.startswith(("embeddings.", "sequences."))]
    assert model.dense_parameters() == sum(p.numel() for p in outside)
    without = build({"history": None})
    units = (3 * DIM + 4 * DIM) * 36 + 2 * 36 + 1 + 1 + (2 * DIM + 2 * DIM) * 36 + 2 * 36 + 1 + 1
    assert model.dense_parameters() - without.dense_parameters() == units


def test_hidden_layers_are_those_of_the_configuration() -> None:
    units = build({"history_hidden": (7, 3)}).attentions
    assert [layer.weight.shape for layer in units[1].layers] == [(7, 4 * DIM), (3, 7), (1, 3)]  # type: ignore[union-attr]


def test_keys_of_a_checkpoint() -> None:
    keys = [name for name in build().state_dict() if name.startswith(("embeddings.", "sequences.", "attentions.1."))]
    assert keys == [
        "embeddings.embedding_bags.user.weight",
        *(f"sequences.embeddings.{name}.weight" for name in ("video", "author", "liked_age", "shared_age")),
        *(f"attentions.1.{name}" for name in ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias")),
        "attentions.1.slopes.0",
    ]


def test_a_run_without_histories_is_the_same_with_attention() -> None:
    """`model.history` has no effect on a dataset without histories."""
    states = [build({"history": each}, histories=()).state_dict() for each in (None, "mean", "din")]
    dense = [{name: value for name, value in state.items() if not name.startswith("embeddings.")} for state in states]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    assert not [name for name in states[2] if name.startswith(("sequences.", "attentions."))]
    assert all(torch.equal(value, other[name]) for other in dense[1:] for name, value in dense[0].items())


def test_tables_of_a_history_have_one_dimension() -> None:
    message = (
        'embeddings.tables.author.dim: got 8, while table video has 4; with model.history = "din", all tables that a '
        "history reads have one dimension. Fix: give video, author, liked_age, shared_age the same dim"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        build(embeddings={"tables": {"author": {"dim": 8}}})
    build(embeddings={"tables": {"user": {"dim": 8}}})
    build({"history": "mean"}, embeddings={"tables": {"author": {"dim": 8}}})


@pytest.mark.parametrize("converted", [False, True])
def test_bfloat16_is_near_fp32(converted: bool) -> None:
    """Autocast in training, and converted weights for prediction."""
    model, exact = build(precision="bf16"), build()
    model.load_state_dict(exact.state_dict())
    assert next(model.attentions.parameters()).dtype == torch.float32
    if converted:
        model.convert_to_bfloat16()
        assert next(model.attentions.parameters()).dtype == torch.bfloat16
    with torch.no_grad():
        x, expected = model.inputs(batch())[:, -5 * DIM :], exact.inputs(batch())[:, -5 * DIM :]
        assert model(batch())[0].dtype == torch.float32
    difference = (x - expected).abs().max() / expected.abs().max()
    assert 0 < difference < 0.02
