"""Who meets which video when: the impressions of the synthetic feed, each a pure function of (rows, seed, number).

Impression j belongs to a user: users own consecutive numbers, as many as their activity. A bijection gives j its
place i in the order of time. So every user appears as often as the law of activity says, a day or a user can be made
alone, and a log in order of time and a dataset in order of users hold the same impressions.
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
MIN_ROWS, MAX_ROWS = 10_000, 45_000_000_000  # ids of users, as many as 1 in 21 impressions, are int32
DAYS = 8
DAY_MS = 86_400_000
START_MS = 1_583_107_200_000  # Monday 2020-03-02, 00:00 UTC
DAY_SHARES = (118, 120, 121, 124, 131, 133, 128, 125)  # of 1000: more on Friday, Saturday and Sunday
# Of a day's impressions, by hour: a trough before dawn, a peak at lunch and a higher one in the evening.
HOUR_SHARES = (30, 20, 13, 9, 8, 10, 18, 30, 38, 40, 41, 44, 52, 50, 44, 42, 43, 46, 52, 60, 68, 70, 62, 46)
SLOTS = 40  # of popularity: ranks SLOTS b .. SLOTS (b + 1) - 1 have one video of each kind

# No user has fewer than 2 impressions: with this shift the law gives the last one 2.04 of 21.2 on average, and the
# first one 3,700 in 8 days, at any number of users.
ACTIVITY_SHIFT = 0.00128
POPULARITY_SHIFT = 20.0  # the most popular video has .2 % of all impressions at full size


@dataclass(frozen=True)
class World:
    """Sizes, and the user and time of every impression.

    Args:
        rows: Impressions; users scale with them (46.926 M at 995 M), videos with their square root (2.682 M).
        seed: Of everything that is random.

    Raises:
        UserError: Too few rows or too many.
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
        wanted = PAPER_VIDEOS * min(1.0, float(np.sqrt(self.rows / PAPER_ROWS)))
        return max(1, round(wanted / SLOTS)) * SLOTS

    @cached_property
    def activity(self) -> PowerLaw:
        """Of users by rank; rank 0 is the most active one."""
        return PowerLaw(self.users, ACTIVITY_SHIFT * self.users, steep=True)

    @cached_property
    def popularity(self) -> PowerLaw:
        """Of videos by rank, where no taste plays a part; rank 0 is the most popular one."""
        return PowerLaw(self.videos, POPULARITY_SHIFT, steep=False)

    @cached_property
    def _order(self) -> Bijection:
        return Bijection(self.rows, self.key("order"))

    def key(self, purpose: str) -> int:
        """Key of a stream of random bits."""
        return key_of("tencent", self.seed, purpose)

    def bits(self, purpose: str, index: I64) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
        """64 random bits for every index."""
        return bits(self.key(purpose), index)

    def user_of(self, impression: I64) -> I64:
        """The user of each impression; it never falls as the number of the impression grows."""
        return self.activity.rank_at((impression + 0.5) / self.rows)

    def first_of(self, user: int) -> int:
        """The first impression of a user; of the number of users, the number of impressions."""
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
        """Place in the order of time at which day 0 .. 7 begins; of 8, the number of impressions."""
        return self.rows * sum(DAY_SHARES[:day]) // sum(DAY_SHARES)

    def at(self, place: I64) -> I64:
        """The impressions at places in the order of time."""
        return self._order.inverse(place)

    def place_of(self, impression: I64) -> I64:
        """The places of impressions in the order of time."""
        return self._order.forward(impression)

    def time_of(self, place: I64) -> tuple[I64, I64]:
        """Day (0 .. 7) and millisecond of the day; time never falls as the place grows."""
        starts = np.array([self.day_start(day) for day in range(DAYS + 1)])
        day = np.searchsorted(starts, place, side="right") - 1
        share = (place - starts[day] + 0.5) / np.diff(starts)[day] * sum(HOUR_SHARES)
        begins = np.concatenate([[0], np.cumsum(HOUR_SHARES)])
        hour = np.searchsorted(begins, share, side="right") - 1
        within = (share - begins[hour]) / np.array(HOUR_SHARES)[hour]
        return day, (hour * 3_600_000 + (within * 3_600_000).astype(np.int64)).astype(np.int64)

    def blocks_of_days(self, days: range, size: int) -> list[range]:
        """Places in the order of time, cut into blocks of at most `size` that hold one day each."""
        out = []
        for day in days:
            first, end = self.day_start(day), self.day_start(day + 1)
            out += [range(at, min(at + size, end)) for at in range(first, end, size)]
        return out

    def blocks_of_users(self, size: int) -> Iterator[range]:
        """Impressions, cut at users into blocks of about `size`."""
        first = 0
        while first < self.rows:
            target = min(first + size, self.rows)
            end = self.rows if target == self.rows else self.first_of(int(self.user_of(np.array([target]))[0]))
            if end == first:  # one user with more than `size`
                end = self.first_of(int(self.user_of(np.array([first]))[0]) + 1)
            yield range(first, end)
            first = end

    def is_valid(self, user: I64) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Whether the last day of a user goes to valid, else to test: half of the users each."""
        return uniform64(self.bits("valid", user)) < 0.5
