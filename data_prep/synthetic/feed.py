"""Blocks of the synthetic feed: some impressions with all their columns.

`Feed.block_at` returns impressions in the order of time, `Feed.day_of_users` those of some users on one day.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.synthetic.entities import Contexts, FeatureGenerator, Policy, Users, Videos
from data_prep.synthetic.hashing import I64
from data_prep.synthetic.outcomes import Outcomes, outcomes
from data_prep.synthetic.world import World

_SCAN_ROWS = 65_536  # Number of impressions that are searched at a time, so that they fit into the processor's cache.


@dataclass(frozen=True)
class Block:
    """Columns of some impressions, each an array with one entry per impression."""

    impression: I64  # Number of the impression; see `world.py`.
    user: I64  # Rank by activity.
    video: I64  # Rank by popularity.
    day: I64  # 0 to 7.
    milliseconds: I64  # Time in milliseconds of the day.
    explored: NDArray[np.bool_]  # True if the video was drawn uniformly, to explore.
    propensity: NDArray[np.float32]  # Probability with which the video was chosen, given `explored`.
    users: Users
    videos: Videos
    contexts: Contexts
    outcomes: Outcomes


class Feed:
    """Impressions of a world.

    Args:
        world: Sizes and seed.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.features = FeatureGenerator(world)
        self.policy = Policy(self.features)

    def block_at(self, places: range) -> Block:
        """Return the impressions at consecutive places in the order of time, in this order."""
        place = np.arange(places.start, places.stop, dtype=np.int64)
        return self._block(self.world.impressions_at(place), place)

    def day_of_users(self, impressions: range, day: int) -> Block:
        """Return those of the impressions that lie on one day, in the order of user, then time.

        Args:
            impressions: Numbers of impressions.
            day: Number of the day, from 0 to 7.
        """
        world = self.world
        selected = []
        for start in range(impressions.start, impressions.stop, _SCAN_ROWS):
            candidates = np.arange(start, min(start + _SCAN_ROWS, impressions.stop), dtype=np.int64)
            places = world.impression_places(candidates)
            inside = (places >= world.day_start(day)) & (places < world.day_start(day + 1))
            selected.append((candidates[inside], places[inside]))
        impression, place = (np.concatenate(arrays) for arrays in zip(*selected, strict=True))
        order = np.lexsort((place, world.impression_users(impression)))
        return self._block(impression[order], place[order])

    def _block(self, impression: I64, place: I64) -> Block:
        world = self.world
        day, milliseconds = world.place_times(place)
        user = world.impression_users(impression)
        users = self.features.users(user)
        video, explored, propensity = self.policy.choose(impression, users.group)
        videos = self.features.videos(video)
        contexts = self.features.contexts(world.bits("context", impression), day, milliseconds)
        return Block(
            impression=impression,
            user=user,
            video=video,
            day=day,
            milliseconds=milliseconds,
            explored=explored,
            propensity=propensity,
            users=users,
            videos=videos,
            contexts=contexts,
            outcomes=outcomes(world, impression, users, videos, contexts),
        )
