"""What the synthetic feed holds: rates, correlations, propensities, ground truth, and the same in every form."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from data_prep.synthetic.columns import (
    CARDINALITY,
    DENSE,
    NORMALISERS,
    SPARSE,
    TASKS,
    TRUTHS,
    dataset_table,
    raw_table,
    table_rows,
)
from data_prep.synthetic.feed import Feed
from data_prep.synthetic.outcomes import ReachableMetrics
from data_prep.synthetic.world import World

WORLD = World(400_000, seed=1)
FEED = Feed(WORLD)
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """All impressions, in the order of time."""
    blocks = WORLD.blocks_of_days(range(8), 50_000)
    return pa.concat_tables([dataset_table(FEED.block_at(block)) for block in blocks])


def numbers(rows: pa.Table, column: str) -> Floats:
    return np.asarray(rows[column].cast(pa.float64()).to_numpy())


def auc(positives: NDArray[Any], negatives: NDArray[Any]) -> float:
    """Of counts by score, ascending."""
    below = np.cumsum(negatives) - negatives / 2
    return float((positives * below).sum() / (positives.sum() * negatives.sum()))


def test_the_columns(rows: pa.Table) -> None:
    assert len(SPARSE) == 24
    assert len(DENSE) == 8
    for name, size in table_rows(WORLD).items():
        limits = pc.min_max(rows[name]).as_py()
        assert rows.schema.field(name).type == pa.int32()
        assert limits["min"] >= 0
        assert limits["max"] < size
        if name not in ("user_id", "video_id", "author_id"):
            assert len(set(rows[name].to_pylist()) - {0}) == CARDINALITY[name]
    nulls = {name: rows[name].null_count / len(rows) for name in NORMALISERS}
    assert {name for name, share in nulls.items() if share} == {"user_register_days", "video_past_ctr"}
    assert 0.01 < nulls["user_register_days"] < 0.03
    assert all(len(rows[name].unique()) < 1500 for name in NORMALISERS)
    assert 0.02 < pc.mean(pc.equal(rows["gender"], 0).cast("float64")).as_py() < 0.05


def test_base_rates(rows: pa.Table) -> None:
    clicks = rows.filter(pc.field("is_click"))
    assert numbers(rows, "click").mean() == pytest.approx(0.45, abs=0.02)
    assert numbers(rows, "valid_view").mean() == pytest.approx(0.43, abs=0.02)
    assert numbers(rows, "completion").mean() == pytest.approx(0.33, abs=0.02)
    assert numbers(clicks, "is_share").mean() == pytest.approx(0.010, abs=0.001)
    assert numbers(clicks, "is_comment").mean() == pytest.approx(0.016, abs=0.0015)
    assert numbers(rows, "completion").min() == 0
    assert numbers(rows, "completion").max() == 1


def test_share_and_comment_only_after_a_click(rows: pa.Table) -> None:
    without = rows.filter(~pc.field("is_click"))
    assert len(without) > 100_000
    assert numbers(without, "is_share").sum() == 0
    assert numbers(without, "is_comment").sum() == 0
    assert rows["click"].cast(pa.bool_()) == rows["is_click"]


def test_popularity_is_a_power_law(rows: pa.Table) -> None:
    standard = rows.filter(~pc.field("is_random"))
    counts = np.sort(np.bincount(standard["video_id"].to_numpy()))[::-1].astype(float)
    edges = np.unique(np.geomspace(100, 3000, 12).astype(int))
    mean = np.array([counts[a:b].mean() for a, b in pairwise(edges)])
    centre = np.sqrt(edges[:-1] * edges[1:])
    slopes = np.diff(np.log(mean)) / np.diff(np.log(centre))
    assert (slopes < 0).all()
    assert np.polyfit(np.log(centre), np.log(mean), 1)[0] == pytest.approx(-7 / 8, abs=0.1)


def test_the_relation_of_the_labels_depends_on_how_a_video_starts(rows: pa.Table) -> None:
    auto = rows["auto_play"].to_numpy() == 2
    view, ratio, click = (numbers(rows, name) for name in ("valid_view", "completion", "click"))

    def related(a: Floats, b: Floats) -> tuple[float, float]:
        return float(np.corrcoef(a[auto], b[auto])[0, 1]), float(np.corrcoef(a[~auto], b[~auto])[0, 1])

    assert 0.35 < auto.mean() < 0.45
    assert view[auto].mean() > view[~auto].mean() + 0.15  # a higher base rate of play
    by_itself, chosen = related(view, ratio)
    assert chosen > by_itself + 0.08
    by_itself, chosen = related(click, ratio)
    assert chosen > by_itself + 0.3
    by_itself, chosen = related(numbers(rows, "truth_ctr"), numbers(rows, "truth_vcr"))
    assert chosen > by_itself + 0.5


def test_propensities(rows: pa.Table) -> None:
    random = rows["is_random"].to_numpy(zero_copy_only=False)
    propensity = numbers(rows, "propensity")
    assert random.mean() == pytest.approx(0.01, abs=0.001)
    weight = 1 / (WORLD.videos * propensity)
    np.testing.assert_allclose(weight[random], 1, rtol=2**-12)
    assert weight[~random].mean() == pytest.approx(1, abs=0.02)
    # Reweighted to a uniform choice, the standard rows show the click rate of the random ones.
    click = numbers(rows, "click")
    assert click[~random].mean() > click[random].mean() + 0.04
    noise = 3 * click[random].std() / np.sqrt(random.sum())
    assert (click * weight)[~random].mean() == pytest.approx(click[random].mean(), abs=noise)


@pytest.mark.parametrize("group", [0, 77])
def test_a_propensity_is_how_often_a_video_is_shown(group: int) -> None:
    policy = FEED.policy
    every = policy.propensity(np.arange(WORLD.videos), np.full(WORLD.videos, group))
    assert every.sum() == pytest.approx(1, abs=1e-9)
    impressions = 400_000
    video, explored, logged = policy.choose(np.arange(impressions), np.full(impressions, group))
    np.testing.assert_allclose(logged[~explored], every[video[~explored]], rtol=2**-12)
    shown = np.bincount(video[~explored], minlength=WORLD.videos)
    expected = every * (~explored).sum()
    common = expected > 50
    assert common.sum() > 500
    assert ((shown - expected) ** 2 / expected)[common].mean() == pytest.approx(1, abs=0.15)


def test_the_truth_is_calibrated(rows: pa.Table) -> None:
    for task in TASKS:
        inside = rows if task.space is None else rows.filter(pc.field(task.space))
        label, truth = numbers(inside, task.label), numbers(inside, f"truth_{task.name}")
        for part in np.array_split(np.argsort(truth), 5):
            noise = 4.5 * label[part].std() / np.sqrt(len(part))
            assert label[part].mean() == pytest.approx(truth[part].mean(), abs=noise), task.name


def test_no_single_feature_reaches_the_truth(rows: pa.Table) -> None:
    reachable = ReachableMetrics(TASKS)
    reachable.add(rows)
    best = {name: float(values["auc"] or 0) for name, values in reachable.results().items() if "auc" in values}
    assert set(best) == {"vtr", "share", "comment", "ctr"}
    few = [name for name, size in CARDINALITY.items() if size < 50]  # else their rates would be learnt by heart
    for name in (*TRUTHS, *NORMALISERS, *few):
        values, code = np.unique(np.nan_to_num(numbers(rows, name)), return_inverse=True)
        for task in TASKS:
            if task.name not in best:
                continue
            inside = numbers(rows, "is_click") == 1 if task.space else np.ones(len(rows), bool)
            positive = np.bincount(code[inside], numbers(rows, task.label)[inside], minlength=len(values))
            negative = np.bincount(code[inside], minlength=len(values)) - positive
            if name in CARDINALITY:  # the best order of its values: by their rate
                order = np.argsort(positive / np.maximum(positive + negative, 1))
                positive, negative = positive[order], negative[order]
            alone = auc(positive, negative)
            if name == f"truth_{task.name}":
                assert best[task.name] == pytest.approx(alone, abs=1e-9)
            elif name not in TRUTHS:
                assert max(alone, 1 - alone) < best[task.name] - 0.04, (task.name, name)
    assert 0.7 < best["vtr"] < 0.75
    assert 0.72 < best["ctr"] < 0.77


def test_reachable_counts_add_up(rows: pa.Table) -> None:
    whole, left, right = (ReachableMetrics(TASKS) for _ in range(3))
    whole.add(rows)
    left.add(rows.slice(0, 1234))
    right.add(rows.slice(1234))
    left.merge(right)
    assert left.results() == whole.results()
    label, truth = numbers(rows, "completion"), numbers(rows, "truth_vcr")
    results = whole.results()
    assert results["vcr"]["mse"] == pytest.approx(((label - truth) ** 2).mean())
    assert results["vcr"]["variance"] == pytest.approx(label.var())
    view, p = numbers(rows, "valid_view"), numbers(rows, "truth_vtr")
    assert results["vtr"]["logloss"] == pytest.approx(-np.log(np.where(view == 1, p, 1 - p)).mean())
    nothing = ReachableMetrics(TASKS).results()
    assert nothing["vtr"] == {"samples": 0, "positives": 0, "auc": None, "logloss": None}
    assert nothing["vcr"] == {"samples": 0, "mse": None, "variance": None}


def test_an_impression_is_the_same_alone_and_in_a_block(rows: pa.Table) -> None:
    assert dataset_table(FEED.block_at(range(123_456, 123_459))).equals(rows.slice(123_456, 3).combine_chunks())
    assert dataset_table(Feed(World(WORLD.rows, 1)).block_at(range(7, 8))).equals(rows.slice(7, 1).combine_chunks())
    assert not dataset_table(Feed(World(WORLD.rows, 2)).block_at(range(1000))).equals(rows.slice(0, 1000))


def test_the_last_day_in_the_order_of_users(rows: pa.Table) -> None:
    blocks = list(WORLD.blocks_of_users(60_000))
    made = [FEED.day_of_users(block, 7) for block in blocks]
    last = pa.concat_tables([dataset_table(block) for block in made])
    assert (np.diff(last["user_id"].to_numpy()) >= 0).all()
    user, at = (np.concatenate([getattr(block, name) for block in made]) for name in ("user", "milliseconds"))
    assert (np.diff(at)[np.diff(user) == 0] >= 0).all()
    start = WORLD.day_start(7)
    place = np.concatenate([WORLD.impression_places(block.impression) for block in made])
    assert last.take(np.argsort(place)).equals(rows.slice(start).combine_chunks())


def test_a_raw_log_holds_the_same(rows: pa.Table) -> None:
    block = FEED.block_at(range(50_000, 60_000))
    raw, made = raw_table(WORLD, block), dataset_table(block)
    assert (np.diff(raw["time_ms"].to_numpy()) >= 0).all()
    for name in ("user_id", "video_id"):
        pairs = set(zip(raw[name].to_pylist(), made[name].to_pylist(), strict=True))
        assert len({left for left, _ in pairs}) == len({right for _, right in pairs}) == len(pairs)
        assert pc.min(raw[name]).as_py() > 0
        assert pc.max(raw[name]).as_py() > 2**61  # scattered, not dense
    ratio = pc.divide(raw["play_time_ms"].cast("float64"), raw["duration_ms"].cast("float64"))
    assert pc.min_element_wise(ratio, 1.0).cast("float32").equals(made["completion"].cast("float32"))
    assert pc.greater(raw["play_time_ms"], 3000).cast("float32").equals(made["valid_view"])
    assert raw["is_click"].cast(pa.bool_()).equals(made["is_click"])
    assert raw["gender"].is_null().equals(pc.equal(made["gender"], 0))
    assert set(raw["network"].unique().to_pylist()) == {"wifi", "4g", "5g", "3g"}
    for name in (*NORMALISERS, *TRUTHS, "propensity", "is_random"):
        assert raw[name].equals(made[name])
    assert pc.min(raw["duration_ms"]).as_py() >= 5000
