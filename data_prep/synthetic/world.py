"""Sizes of the synthetic feed, and user and time of every impression as a pure function of (rows, seed, number).

Each user has consecutive impressions, as many as the law of activity says. A bijection gives impression j its place i
in the order of time. So a day or a user can be generated alone, and a log in order of time has the same impressions as
a dataset in order of users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_prep.synthetic.hashing import I64, Bijection, bits, key_of, uniform64
from data_prep.synthetic.laws import PowerLaw
from ple_rec.errors import UserError

PAPER_ROWS, PAPER_USERS, PAPER_VIDEOS = 995_000_000, 46_926_000, 2_682_000
MIN_ROWS, MAX_ROWS = 10_000, 45_000_000_000  # There is one user per 21 impressions, with int32 ids.
DAYS = 8
DAY_MS = 86_400_000
START_MS = 1_583_107_200_000  # Monday 2020-03-02, 00:00 UTC.
DAY_SHARES = (118, 120, 121, 124, 131, 133, 128, 125)  # Per mille, with more on Friday, Saturday and Sunday.
# Shares of the hours of a day, with a trough before dawn, a peak at lunch and a higher peak in the evening.
HOUR_SHARES = (30, 20, 13, 9, 8, 10, 18, 30, 38, 40, 41, 44, 52, 50, 44, 42, 43, 46, 52, 60, 68, 70, 62, 46)
SLOTS = 40  # Slots of popularity: the ranks SLOTS b .. SLOTS (b + 1) - 1 have one video of each slot.

# No user has fewer than 2 impressions. With this shift, the law gives the last user 2.04 impressions, the first user
# 3,700 and the average user 21.2 in 8 days, for any number of users.
ACTIVITY_SHIFT = 0.00128
POPULARITY_SHIFT = 20.0  # The most popular video has .2 % of all impressions at full size.


@dataclass(frozen=True)
class World:
    """Sizes, and the user and time of every impression.

    Args:
        rows: Number of impressions. The number of users is proportional to it (46.926 M for 995 M impressions), that
            of videos to its square root (2.682 M).
        seed: Seed of everything that is random.

    Raises:
        UserError: There are too few rows or too many.
    """

    rows: int = PAPER_ROWS
    seed: int = 0

    def __post_init__(self) -> None:
        if not MIN_ROWS <= self.rows <= MAX_ROWS:
            raise UserError(
                "rows",
                f"got {self.rows}",
                f"the synthetic feed has {MIN_ROWS} to {MAX_ROWS} impressions",
                f"give a number in that range; the paper's is {PAPER_ROWS}",
            )

    @cached_property
    def users(self) -> int:
        """Number of users."""
        return round(self.rows * PAPER_USERS / PAPER_ROWS)

    @cached_property
    def videos(self) -> int:
        """Number of videos, a multiple of `SLOTS`."""
        expected = PAPER_VIDEOS * min(1.0, float(np.sqrt(self.rows / PAPER_ROWS)))
        return max(1, round(expected / SLOTS)) * SLOTS

    @cached_property
    def activity(self) -> PowerLaw:
        """Law of activity of users by rank; rank 0 is the most active user."""
        return PowerLaw(self.users, ACTIVITY_SHIFT * self.users, steep=True)

    @cached_property
    def popularity(self) -> PowerLaw:
        """Law of popularity of videos by rank, without personal taste; rank 0 is the most popular video."""
        return PowerLaw(self.videos, POPULARITY_SHIFT, steep=False)

    @cached_property
    def _order(self) -> Bijection:
        return Bijection(self.rows, self.key("order"))

    def key(self, purpose: str) -> int:
        """Return the key of a stream of random bits."""
        return key_of("tencent", self.seed, purpose)

    def bits(self, purpose: str, index: I64) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
        """Return 64 random bits for every index."""
        return bits(self.key(purpose), index)

    def user_of(self, impression: I64) -> I64:
        """Return the user of each impression. It never falls as the number of the impression grows."""
        return self.activity.rank_at((impression + 0.5) / self.rows)

    def first_of(self, user: int) -> int:
        """Return the first impression of a user; the number of impressions for the user after the last."""
        if user >= self.users:
            return self.rows
        low, high = 0, self.rows - 1
        while low < high:
            middle = (low + high) // 2
            if int(self.user_of(np.array([middle]))[0]) < user:
                low = middle + 1
            else:
                high = middle
        return low

    def day_start(self, day: int) -> int:
        """Return the place in the order of time at which a day from 0 to 7 begins; for day 8, the number of rows."""
        return self.rows * sum(DAY_SHARES[:day]) // sum(DAY_SHARES)

    def at(self, place: I64) -> I64:
        """Return the impressions at some places in the order of time."""
        return self._order.inverse(place)

    def place_of(self, impression: I64) -> I64:
        """Return the places of impressions in the order of time."""
        return self._order.forward(impression)

    def time_of(self, place: I64) -> tuple[I64, I64]:
        """Return day, from 0 to 7, and millisecond of the day. The time never falls as the place grows."""
        starts = np.array([self.day_start(day) for day in range(DAYS + 1)])
        day = np.searchsorted(starts, place, side="right") - 1
        share = (place - starts[day] + 0.5) / np.diff(starts)[day] * sum(HOUR_SHARES)
        begins = np.concatenate([[0], np.cumsum(HOUR_SHARES)])
        hour = np.searchsorted(begins, share, side="right") - 1
        within = (share - begins[hour]) / np.array(HOUR_SHARES)[hour]
        return day, (hour * 3_600_000 + (within * 3_600_000).astype(np.int64)).astype(np.int64)

    def blocks_of_days(self, days: range, size: int) -> list[range]:
        """Return blocks of at most `size` places in the order of time, each within one day."""
        out = []
        for day in days:
            first, end = self.day_start(day), self.day_start(day + 1)
            out += [range(at, min(at + size, end)) for at in range(first, end, size)]
        return out

    def blocks_of_users(self, size: int) -> Iterator[range]:
        """Yield blocks of about `size` impressions, each of whole users."""
        first = 0
        while first < self.rows:
            target = min(first + size, self.rows)
            end = self.rows if target == self.rows else self.first_of(int(self.user_of(np.array([target]))[0]))
            if end == first:  # One user has more than `size` impressions.
                end = self.first_of(int(self.user_of(np.array([first]))[0]) + 1)
            yield range(first, end)
            first = end

    def is_valid(self, user: I64) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Return True for users whose last day goes to valid, one half of them; the others go to test."""
        return uniform64(self.bits("valid", user)) < 0.5
