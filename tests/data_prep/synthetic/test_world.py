"""Who meets which video when: sizes, activity, popularity, time, and blocks that cover everything once."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.synthetic.world import DAY_MS, DAY_SHARES, PAPER_ROWS, World
from ple_rec.errors import UserError

WORLD = World(200_000, seed=3)


def test_the_paper() -> None:
    world = World()
    assert (world.rows, world.users, world.videos) == (995_000_000, 46_926_000, 2_682_000)
    last = np.arange(world.users - 1000, world.users)
    firsts = [world.first_impression(int(user)) for user in last[::100]]
    assert np.diff(firsts).min() / 100 > 2.02  # impressions of the least active users
    assert world.first_impression(1) - world.first_impression(0) == pytest.approx(3664, abs=2)
    assert int(world.impression_users(np.array([world.rows - 1]))[0]) == world.users - 1


def test_every_user_appears() -> None:
    user = WORLD.impression_users(np.arange(WORLD.rows))
    assert (np.diff(user) >= 0).all()
    counts = np.bincount(user)
    assert len(counts) == WORLD.users == round(200_000 * 46_926 / 995_000)
    assert counts.min() == 2
    expected = np.diff(WORLD.activity.cdf(np.arange(WORLD.users + 1.0))) * WORLD.rows
    assert (abs(counts - expected) <= 1.01).all()
    assert counts[: len(counts) // 100].sum() > 0.15 * WORLD.rows  # a heavy tail: 1 % of users, 15 % of impressions
    firsts = np.flatnonzero(np.diff(user, prepend=-1))
    assert [WORLD.first_impression(u) for u in (0, 1, 777, WORLD.users)] == [*firsts[[0, 1, 777]], WORLD.rows]


def test_the_order_of_time() -> None:
    place = np.arange(WORLD.rows)
    impression = WORLD.impressions_at(place)
    assert (np.sort(impression) == place).all()
    assert (WORLD.impression_places(impression) == place).all()
    day, milliseconds = WORLD.place_times(place)
    assert (np.diff(day * DAY_MS + milliseconds) >= 0).all()
    assert milliseconds.min() >= 0
    assert milliseconds.max() < DAY_MS
    assert (np.bincount(day) * 1000 == np.array(DAY_SHARES) * WORLD.rows).all()
    hours = np.bincount(milliseconds // 3_600_000, minlength=24)
    assert hours.argmin() == 4
    assert hours.argmax() == 21


def test_the_days_of_a_user_are_as_random_ones() -> None:
    impression = np.arange(WORLD.rows)
    user, last = WORLD.impression_users(impression), WORLD.place_times(WORLD.impression_places(impression))[0] == 7
    counts, hits = np.bincount(user), np.bincount(user, last)
    dispersion = ((hits - counts * 0.125) ** 2 / (counts * 0.125 * 0.875)).mean()
    assert dispersion == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("size", [100, 999, 50_000, 10**9])
def test_blocks(size: int) -> None:
    users = list(WORLD.blocks_of_users(size))
    assert [block.start for block in users] == [0, *(block.stop for block in users[:-1])]
    assert users[-1].stop == WORLD.rows
    edges = np.array([block.start for block in users[1:]], dtype=np.int64)
    assert (WORLD.impression_users(edges) > WORLD.impression_users(edges - 1)).all()
    assert max(map(len, users)) <= max(size, 4000)  # the most active user is not cut
    days = WORLD.blocks_of_days(range(2, 7), size)
    assert sum(map(len, days)) == WORLD.day_start(7) - WORLD.day_start(2)
    assert all(np.ptp(WORLD.place_times(np.array([b.start, b.stop - 1]))[0]) == 0 for b in days)
    starts = {WORLD.day_start(day) for day in range(2, 7)}
    assert starts <= {block.start for block in days}
    assert max(map(len, days)) <= size


def test_valid_is_a_half() -> None:
    share = WORLD.is_in_valid_split(np.arange(WORLD.users)).mean()
    assert share == pytest.approx(0.5, abs=0.02)


def test_the_seed_changes_the_order_and_not_the_sizes() -> None:
    other = World(WORLD.rows, seed=4)
    assert (other.users, other.videos) == (WORLD.users, WORLD.videos)
    assert (other.impressions_at(np.arange(1000)) == WORLD.impressions_at(np.arange(1000))).sum() < 3


@pytest.mark.parametrize("rows", [9_999, 45_000_000_001])
def test_sizes_out_of_range(rows: int) -> None:
    with pytest.raises(UserError) as caught:
        World(rows)
    assert str(caught.value) == (
        f"rows: got {rows}; the synthetic feed has 10000 to 45000000000 impressions. "
        f"Fix: set a number in this range; the paper has {PAPER_ROWS}"
    )
