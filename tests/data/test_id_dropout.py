"""Id dropout replaces the same ids of the same samples for any ranks, batches and resumption, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.load import ConfigError, with_overrides
from ple_rec.data.batch import Batch
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.training.context import build_evaluation_context
from ple_rec.training.prepared import prepare_run
from tests.data import oracle
from tests.datasets import numbered, write_dataset
from tests.training.requests import SHARED, repeated
from tests.training.small import on_ranks, ranks_of, small_config

SHARES = {"user": 0.9, "item": 0.5, "history": 0.5, "tags": 0.3}
EPOCHS = range(8)
Bag = tuple[tuple[int, float], ...]
Ids = dict[int, dict[str, Bag]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetDirectory:
    """300 rows in requests of 1 to 9, whose group column numbers them."""
    path = tmp_path_factory.mktemp("id dropout") / "data"
    write_dataset(path, rows=300, row_group_rows=(70, 50, 110), edit=lambda s, t: numbered(s, repeated(s, t)))
    return DatasetDirectory(path)


def _loader(dataset: DatasetDirectory, shares: Mapping[str, float] = SHARES, **options: Any) -> Loader:
    selection = replace(dataset.select(drop=[], tasks=[]), requests=options.pop("requests", ()))
    sizes = {"batch_size": 36, "rank": 0, "world_size": 1, "virtual_shards": 6, "seed": 3}
    return Loader(dataset, "train", selection, id_dropout=shares, **sizes | options)


def _ids(batches: Iterable[Batch]) -> Ids:
    """Return (id, weight) pairs by number of the row and feature; shared ones are those of the request's first row."""
    found: Ids = {}
    for batch in batches:
        assert batch.sparse is not None
        assert batch.group_B is not None
        shared = SHARED if batch.requests is not None else ()
        for name, jagged in batch.sparse.to_dict().items():
            pairs = list(zip(jagged.values().tolist(), jagged.weights().tolist(), strict=True))
            bags = [tuple(pairs[begin:end]) for begin, end in pairwise(jagged.offsets().tolist())]
            for i, number in enumerate(batch.group_B[: batch.rows].tolist()):
                first = int(batch.requests.first_R[batch.requests.request_B[i]]) if batch.requests is not None else i
                found.setdefault(number, {})[name] = bags[first if name in shared else i]
    assert sorted(found) == list(range(300))
    return found


def _dropped(whole: Ids, ids: Ids, feature: str) -> list[bool]:
    """Return a flag for each id of a feature that is not 0 without id dropout, True if it is 0 with it."""
    pairs = [(a[0], b[0]) for n in whole for a, b in zip(whole[n][feature], ids[n][feature], strict=True)]
    assert all(b in (a, 0) for a, b in pairs)
    return [b == 0 for a, b in pairs if a != 0]


def test_a_share_of_the_ids_of_some_features_becomes_row_0(dataset: DatasetDirectory) -> None:
    plain = _loader(dataset, {})
    dropped: dict[str, list[bool]] = {}
    for epoch in EPOCHS:
        whole, ids = _ids(plain.epoch(epoch)), _ids(_loader(dataset).epoch(epoch))
        assert list(ids) == list(whole)  # The order of the samples is the same.
        for number, row in ids.items():
            assert row["last_item"] == whole[number]["last_item"]  # It reads the table of `item`.
            assert [weight for _, weight in row["tags"]] == [weight for _, weight in whole[number]["tags"]]
        for feature in SHARES:
            dropped.setdefault(feature, []).extend(_dropped(whole, ids, feature))
    for feature, share in SHARES.items():
        count = len(dropped[feature])
        assert count > 1000
        assert sum(dropped[feature]) / count == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)


def test_ids_of_a_bag_are_drawn_one_by_one(dataset: DatasetDirectory) -> None:
    bags = [row["history"] for row in _ids(_loader(dataset).epoch(0)).values()]
    parts = [sum(item == 0 for item, _ in bag) / len(bag) for bag in bags if len(bag) > 1]
    assert sum(0 < part < 1 for part in parts) > 50


def test_epoch_seed_feature_and_row_group_draw_other_numbers(dataset: DatasetDirectory) -> None:
    half = {"user": 0.5, "item": 0.5}
    whole = _ids(_loader(dataset, {}).epoch(0))

    def flags(feature: str, epoch: int = 0, seed: int = 3) -> tuple[bool, ...]:
        ids = _ids(_loader(dataset, half, seed=seed).epoch(epoch))
        return tuple(ids[n][feature][0][0] == 0 for n in sorted(whole))

    draws = [flags("user"), flags("item"), flags("user", epoch=1), flags("user", seed=4)]
    draws += [draws[0][70:120] + draws[0][:250]]  # The second row group begins like the first one.
    agreeing = [sum(a == b for a, b in zip(draws[0], other, strict=True)) for other in draws[1:]]
    assert all(100 < count < 200 for count in agreeing)
    # A feature draws the same numbers whatever happens to other features.
    alone = _ids(_loader(dataset, {"user": 0.5}).epoch(0))
    assert tuple(alone[n]["user"][0][0] == 0 for n in sorted(whole)) == draws[0]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(
    "order",
    [{}, {"requests": SHARED}, {"requests": SHARED, "by_request": True}],
    ids=["rows", "requests of rows", "whole requests"],
)
def test_ids_depend_on_no_ranks_batches_or_pieces(
    dataset: DatasetDirectory, order: dict[str, Any], world_size: int
) -> None:
    whole = list(_loader(dataset, **order).epoch(1))
    expected = _ids(whole)
    ranks = [_loader(dataset, rank=rank, world_size=world_size, **order).epoch(1) for rank in range(world_size)]
    assert _ids(batch for batches in ranks for batch in batches) == expected
    assert _ids(_loader(dataset, batch_size=10, virtual_shards=2, **order).epoch(1)) == expected
    pieces = _loader(dataset, buffer_bytes=1000, **order).epoch(1)
    assert [oracle.bits(batch) for batch in pieces] == [oracle.bits(batch) for batch in whole]
    resumed = _loader(dataset, **order).epoch(1, 4)
    assert [oracle.bits(batch) for batch in resumed] == [oracle.bits(batch) for batch in whole[4:]]


def test_requests_stay_whole(dataset: DatasetDirectory) -> None:
    """Without it, a request of 9 rows of whose users some are dropped would fall apart."""
    order: dict[str, Any] = {"requests": SHARED, "by_request": True}
    plain, dropping = (list(_loader(dataset, shares, **order).epoch(0)) for shares in ({}, SHARES))
    pairs = list(zip(plain, dropping, strict=True))
    assert all(a.requests is not None and b.requests is not None for a, b in pairs)
    assert [len(b.requests or ()) <= len(a.requests or ()) for a, b in pairs] == [True] * len(pairs)
    assert 0 < sum(_dropped(_ids(plain), _ids(dropping), "user")) < 300


def _read_splits(rank: int, world_size: int, data: Path, changes: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    context = build_evaluation_context(small_config(data, changes), ranks_of(rank, world_size))
    loaders = (context.training_loader(rank), context.evaluation_loader("train"))
    training, evaluation = ([oracle.bits(batch) for batch in loader.epoch(0)] for loader in loaders)
    return training, evaluation


def test_tables_are_chosen_and_evaluations_keep_every_id(dataset: DatasetDirectory) -> None:
    data = Path(str(dataset.path))
    embeddings = {"dim": 4, "id_dropout": 0.5, "tables": {"item": {"id_dropout": 0.0}, "tag": {"id_dropout": 0.9}}}
    config = small_config(data, {"embeddings": embeddings})
    assert prepare_run(config, 1).id_dropout == {"user": 0.5, "tags": 0.9}
    assert prepare_run(small_config(data), 1).id_dropout == {}
    dropping, plain = (on_ranks(_read_splits, 1, data, changes)[0] for changes in ({"embeddings": embeddings}, {}))
    assert dropping[0] != plain[0]
    assert dropping[1] == plain[1]


@pytest.mark.parametrize("share", [1.0, 1.5, -0.1])
def test_a_share_that_is_none_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(small_config(tmp_path), [f"embeddings.tables.user.id_dropout={share}"], "run.toml")
    assert f"embeddings.tables.user.id_dropout: got {share}; must be >= 0 and < 1" in str(caught.value)
