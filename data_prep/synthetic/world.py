"""Sizes of the synthetic feed; user and time of every impression, computed from the seed and the impression's number.

Impressions are numbered by user: each user has consecutive numbers, as many as a power law of activity says. A random
permutation gives each impression its place, that is, its position in the order of time. So a day or a user can be
generated without the rest, and a raw log in the order of time has the same impressions as a dataset in the order of
users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_prep.synthetic.hashing import I64, Bijection, random_bits, stream_key, uniform64
from data_prep.synthetic.laws import PowerLaw
from ple_rec.errors import UserError

PAPER_ROWS, PAPER_USERS, PAPER_VIDEOS = 995_000_000, 46_926_000, 2_682_000
MIN_ROWS, MAX_ROWS = 10_000, 45_000_000_000  # There is a user per 21.2 impressions, and the ids of users are int32.
DAYS = 8
DAY_MS = 86_400_000
START_MS = 1_583_107_200_000  # Monday 2020-03-02, 00:00 UTC.
DAY_SHARES = (118, 120, 121, 124, 131, 133, 128, 125)  # Per mille, with more on Friday, Saturday and Sunday.
# Relative frequencies of the hours of a day: a trough before dawn, a peak at lunch and a higher peak in the evening.
HOUR_SHARES = (30, 20, 13, 9, 8, 10, 18, 30, 38, 40, 41, 44, 52, 50, 44, 42, 43, 46, 52, 60, 68, 70, 62, 46)
# Videos are ranked by popularity. Rank r is in slot r mod SLOTS, and each slot belongs to one category. So of SLOTS
# consecutive ranks, which are about equally popular, each slot has one.
SLOTS = 40

# Shift of the power law of activity, in units of the number of users. For any number of users, it gives the most active
# user 3,700 impressions in 8 days, the average user 21.2, and the least active one 2.04.
ACTIVITY_SHIFT = 0.00128
POPULARITY_SHIFT = 20.0  # In ranks. With PAPER_VIDEOS, the most popular video has .2 % of the probability.


@dataclass(frozen=True)
class World:
    """Sizes of the feed, and the user and time of every impression.

    Args:
        rows: Number of impressions. The number of users is proportional to this number (46.926 M for 995 M
            impressions), and the number of videos to its square root (2.682 M for 995 M impressions or more).
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
                f"set a number in this range; the paper has {PAPER_ROWS}",
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
        """Return the key by which `random_bits` gives the stream of random bits for a purpose."""
        return stream_key("tencent", self.seed, purpose)

    def bits(self, purpose: str, index: I64) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
        """Return 64 random bits for every index."""
        return random_bits(self.key(purpose), index)

    def impression_users(self, impression: I64) -> I64:
        """Return the user of each impression by its number, ascending with the number."""
        return self.activity.inverse_cdf((impression + 0.5) / self.rows)

    def first_impression(self, user: int) -> int:
        """Return the number of a user's first impression; for the user after the last one, the number of rows."""
        if user >= self.users:
            return self.rows
        low, high = 0, self.rows - 1
        while low < high:
            middle = (low + high) // 2
            if int(self.impression_users(np.array([middle]))[0]) < user:
                low = middle + 1
            else:
                high = middle
        return low

    def day_start(self, day: int) -> int:
        """Return the place of the first impression of a day from 0 to 7; for day 8, the number of rows."""
        return self.rows * sum(DAY_SHARES[:day]) // sum(DAY_SHARES)

    def impressions_at(self, place: I64) -> I64:
        """Return the numbers of the impressions at places in the order of time."""
        return self._order.inverse(place)

    def impression_places(self, impression: I64) -> I64:
        """Return the places of impressions, that is, their positions in the order of time."""
        return self._order.forward(impression)

    def place_times(self, place: I64) -> tuple[I64, I64]:
        """Return the day, from 0 to 7, and the millisecond of the day at each place, ascending with the place."""
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
        """Yield blocks of at most `size` impressions, each with all impressions of its users.

        A user with more than `size` impressions is a block alone.
        """
        first = 0
        while first < self.rows:
            target = min(first + size, self.rows)
            end = (
                self.rows
                if target == self.rows
                else self.first_impression(int(self.impression_users(np.array([target]))[0]))
            )
            if end == first:  # The first user has more than `size` impressions.
                end = self.first_impression(int(self.impression_users(np.array([first]))[0]) + 1)
            yield range(first, end)
            first = end

    def is_in_valid_split(self, user: I64) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Return True for the half of the users whose impressions of the last day are in valid, not in test."""
        return uniform64(self.bits("valid", user)) < 0.5
