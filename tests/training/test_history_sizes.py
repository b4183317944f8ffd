"""Sizes of a model with attention over histories, with and without some of its features, before it is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.run import RunConfig
from ple_rec.planning.plan_input import describe_dataset, meta_model
from ple_rec.training.checks import select_run_columns
from ple_rec.training.model import first_layer_shape, model_sizes
from tests.histories import write_histories
from tests.training.small import small_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("histories") / "data"
    write_histories(folder)
    return folder


def config(data: Path, drop: tuple[str, ...] = (), **model: Any) -> RunConfig:
    run = small_config(data, {"data": {"drop": list(drop)}})
    return run.model_copy(update={"model": run.model.model_copy(update=model)})


@pytest.mark.parametrize(
    ("drop", "items"),
    [((), ["video", "author", "tab"]), (("author",), ["video", "tab"]), (("video", "author", "tab"), None)],
)
@pytest.mark.parametrize("history", ["mean", "din"])
def test_sizes_are_those_of_the_model(drop: tuple[str, ...], items: list[str] | None, history: str, data: Path) -> None:
    run = config(data, drop, history=history)
    described = describe_dataset(run)
    model, selection = meta_model(run, described, cuda=False), select_run_columns(run, described)
    names = [[item.feature for item in each.items] for each in model.histories]
    assert names == ([items] if items is not None and history == "din" else [])
    assert (model.sequences is None) == (not names)
    assert first_layer_shape(run, selection)[0] == model.shared_columns.width
    assert 0 < model_sizes(run, selection).dense_parameters <= model.dense_parameters()


def test_hidden_layers_of_attention_count(data: Path) -> None:
    """A width that is a slip of the pen is refused before any memory is taken for it."""
    sizes = []
    for hidden in ((1,), (1000, 2000)):
        run = config(data, history="din", history_hidden=hidden)
        sizes.append(model_sizes(run, select_run_columns(run, describe_dataset(run))).dense_parameters)
    inputs = 3 * 3 * 4 + 4
    assert sizes[1] - sizes[0] == inputs * 1000 + 1000 * 2000 + 2000 - inputs - 1


def test_a_dropped_history_has_no_attention(data: Path) -> None:
    run = config(data, ("liked",), history="din")
    assert not meta_model(run, describe_dataset(run), cuda=False).histories
