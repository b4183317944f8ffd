"""What the model variants accept and refuse, by the whole message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ple_rec.config.model import (
    AsymmetricConfig,
    CrossStitchConfig,
    CustomizedConfig,
    MlMmoeConfig,
    ModelConfig,
    SluiceConfig,
)
from ple_rec.config.problems import parse_document
from ple_rec.config.run import RunConfig

LEVEL = {"expert_hidden": [8]}


def _document(model: dict[str, Any]) -> dict[str, Any]:
    return {"name": "r", "data": {"path": "d"}, "train": {"batch_size": 8, "epochs": 1}, "model": model}


def _load(variant: str, **model: Any) -> ModelConfig:
    raw = _document({"variant": variant} | model)
    return RunConfig.model_validate_json(json.dumps(raw), strict=True).model


def _problems(variant: str, **model: Any) -> list[str]:
    raw = _document({"variant": variant} | model)
    return parse_document(RunConfig, raw)[1]


def test_experts_without_number_are_refused() -> None:
    many = 10**8
    assert _problems("mmoe", experts=many) == ["model.experts: got 100000000; must be > 0 and <= 10000"]
    assert _problems("ple", levels=[LEVEL | {"task_experts": many, "shared_experts": many}]) == [
        "model.levels[0].task_experts: got 100000000; must be >= 0 and <= 10000",
        "model.levels[0].shared_experts: got 100000000; must be >= 0 and <= 10000",
    ]
    assert not _problems("ple", levels=[LEVEL | {"task_experts": 10_000}])


@pytest.mark.parametrize(
    ("donors", "problem"),
    [
        ({"b": ["a"], "a": ["a"]}, "model: donors.a: names a itself, whose own bottom it always reads; drop it"),
        ({"a": ["b", "c", "b"]}, "model: donors.a: got b, c, b; name every donor once"),
        ({}, "model.donors: got {}; must have at least 1 key"),
        ({"a": []}, "model.donors.a: got []; must have at least 1 item"),
        ({"a": "b"}, 'model.donors.a: got "b" (string); expected a non-empty array of names'),
        (["a"], 'model.donors: got ["a"] (array); expected a table of non-empty arrays of names'),
        (
            {"a b": ["c"]},
            'model.donors."a b": not a key here; must be a name (letters, digits and _; no digit first)',
        ),
    ],
)
def test_donors_that_make_no_relation(donors: object, problem: str) -> None:
    assert _problems("asymmetric", donors=donors) == [problem]
    assert _problems("asymmetric", donors=donors, circular=True) == [problem]


@pytest.mark.parametrize(
    ("donors", "circle"),
    [
        ({"a": ["b"], "b": ["a"]}, "a reads b reads a"),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, "a reads b reads c reads a"),
        # The way into the circle is no part of it, nor is a task that leads nowhere.
        ({"d": ["e", "a"], "a": ["e", "b"], "b": ["e", "c"], "c": ["b"]}, "b reads c reads b"),
    ],
)
def test_a_circle_is_named_and_only_allowed_where_it_is_asked_for(donors: dict[str, list[str]], circle: str) -> None:
    assert _problems("asymmetric", donors=donors) == [
        f"model: donors: {circle}, a circle; an asymmetric relation has a direction. Drop one of these, or allow it "
        "with circular = true"
    ]
    config = _load("asymmetric", donors=donors, circular=True)
    assert isinstance(config, AsymmetricConfig)
    assert config.donors == {task: tuple(names) for task, names in donors.items()}


def test_two_ways_to_one_donor_are_no_circle() -> None:
    diamond = {"d": ["b", "c"], "b": ["a"], "c": ["a"], "e": ["d", "a"]}
    assert isinstance(_load("asymmetric", donors=diamond), AsymmetricConfig)
    # Every later task reads all earlier ones: 2^40 paths, which nobody waits for.
    names = [f"t{i}" for i in range(40)]
    many = {name: names[:i] for i, name in enumerate(names) if i}
    assert isinstance(_load("asymmetric", donors=many), AsymmetricConfig)


@pytest.mark.parametrize(
    ("levels", "options", "problem"),
    [
        (
            [[8], [4, 8], [6]],
            {},
            "model: levels have output widths 8, 8, 6; sluice mixes its levels, so these must be equal",
        ),
        ([[9]], {}, "model: subspaces = 2 does not divide the levels' output width 9"),
        ([[3, 8], [8]], {"subspaces": 3}, "model: subspaces = 3 does not divide the levels' output width 8"),
        ([[2]], {"subspaces": 4}, "model: subspaces = 4 does not divide the levels' output width 2"),
        (
            [[8]],
            {"subspaces": 1, "orthogonality": 0.5},
            "model: orthogonality = 0.5 with subspaces = 1: there is nothing to keep apart. Drop it, or set more "
            "subspaces",
        ),
        ([[8]], {"subspaces": 0}, "model.subspaces: got 0; must be > 0"),
        ([[8]], {"orthogonality": -0.5}, "model.orthogonality: got -0.5; must be >= 0"),
        ([], {}, "model.levels: got []; must have at least 1 item"),
    ],
)
def test_sluices_that_do_not_fit(levels: list[list[int]], options: dict[str, float], problem: str) -> None:
    assert _problems("sluice", levels=[{"expert_hidden": sizes} for sizes in levels], **options) == [problem]


@pytest.mark.parametrize(
    ("variant", "model", "problems"),
    [
        ("asymmetric", {}, ["model.donors: missing; expected a table of non-empty arrays of names"]),
        (
            "asymmetric",
            {"donors": {"a": ["b"]}, "combine": "max"},
            ['model.combine: got "max"; expected "concat", "sum" or "mean"'],
        ),
        ("customized", {"bottem": [3]}, ["model.bottem: unknown key; did you mean `bottom`?"]),
        (
            "customized",
            {"donors": {"a": ["b"]}},
            [
                "model.donors: unknown key; known: activation, dropout, input_dropout, vector_dim, history, "
                "history_hidden, tower, variant, bottom",
            ],
        ),
        ("customized", {"bottom": []}, ["model.bottom: got []; must have at least 1 item"]),
        ("cross_stitch", {}, ["model.levels: missing; expected a non-empty array of tables"]),
        (
            "cross_stitch",
            {"levels": [{"experts": 3}], "per_chanel": True},
            [
                "model.levels[0].experts: unknown key; did you mean `expert_hidden`?",
                "model.per_chanel: unknown key; did you mean `per_channel`?",
            ],
        ),
        (
            "cross_stitch",
            {"levels": [LEVEL], "subspaces": 2},
            [
                "model.subspaces: unknown key; known: activation, dropout, input_dropout, vector_dim, history, "
                "history_hidden, tower, variant, levels, per_channel",
            ],
        ),
        ("cross_stitch", {"levels": []}, ["model.levels: got []; must have at least 1 item"]),
        (
            "ml_mmoe",
            {"levels": [{}, {"experts": 0}, {"experts": 2, "task_experts": 1}]},
            [
                "model.levels[0].experts: missing; expected an int > 0 and <= 10000",
                "model.levels[1].experts: got 0; must be > 0 and <= 10000",
                "model.levels[2].task_experts: unknown key; did you mean `experts`?",
            ],
        ),
        (
            "ml_mmoe",
            {"experts": 3},
            [
                "model.experts: unknown key; did you mean `model.levels[].experts`?",
                "model.levels: missing; expected a non-empty array of tables",
            ],
        ),
        (
            "cross-stitch",
            {},
            [
                'model.variant: got "cross-stitch"; did you mean "cross_stitch"? (known: asymmetric, cgc, '
                "cross_stitch, customized, hard_sharing, ml_mmoe, mmoe, ple, single_task, sluice)"
            ],
        ),
    ],
)
def test_what_a_variant_does_not_have(variant: str, model: dict[str, Any], problems: list[str]) -> None:
    assert _problems(variant, **model) == problems


def test_a_single_level_is_enough_and_the_rest_has_defaults() -> None:
    stitch = _load("cross_stitch", levels=[LEVEL])
    assert isinstance(stitch, CrossStitchConfig)
    assert not stitch.per_channel
    sluice = _load("sluice", levels=[LEVEL])
    assert isinstance(sluice, SluiceConfig)
    assert (sluice.subspaces, sluice.penalty_weight) == (2, 0.01)
    ml_mmoe = _load("ml_mmoe", levels=[{"experts": 2}])
    assert isinstance(ml_mmoe, MlMmoeConfig)
    assert ml_mmoe.levels[0].expert_hidden == (128,)
    customized = _load("customized")
    assert isinstance(customized, CustomizedConfig)
    assert customized.bottom == (256, 128)
    asymmetric = _load("asymmetric", donors={"a": ["b"]})
    assert isinstance(asymmetric, AsymmetricConfig)
    assert (asymmetric.combine, asymmetric.circular) == ("concat", False)


@pytest.mark.parametrize("history", [{}, {"history": "mean"}])
def test_hidden_layers_without_attention_are_refused(history: dict[str, Any]) -> None:
    assert _problems("mmoe", experts=2, history_hidden=[8], **history) == [
        'model: history_hidden: only history = "din" has hidden layers. Set history = "din", or remove history_hidden'
    ]


def test_keys_of_histories() -> None:
    config = _load("mmoe", experts=2, history="din", history_hidden=[8, 4])
    assert (config.history, config.history_hidden) == ("din", (8, 4))
    assert _problems("mmoe", experts=2, history="attention") == [
        'model.history: got "attention"; expected "mean" or "din"'
    ]
    assert _problems("mmoe", experts=2, history="din", history_hidden=[]) == [
        "model.history_hidden: got []; must have at least 1 item"
    ]


def test_a_sluice_of_one_subspace_and_unequal_inner_layers_fits() -> None:
    config = _load("sluice", levels=[{"expert_hidden": [5, 7]}, {"expert_hidden": [7]}], subspaces=1, orthogonality=0)
    assert isinstance(config, SluiceConfig)
    assert [level.expert_hidden for level in config.levels] == [(5, 7), (7,)]
