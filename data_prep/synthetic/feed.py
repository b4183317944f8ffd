"""Blocks of the synthetic feed, each with all columns of some impressions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.synthetic.entities import Contexts, FeatureGenerator, Policy, Users, Videos
from data_prep.synthetic.hashing import I64
from data_prep.synthetic.outcomes import Outcomes, outcomes
from data_prep.synthetic.world import World

_SCAN_ROWS = 65_536  # Impressions at a time, so that they fit the cache of the processor.


@dataclass(frozen=True)
class Block:
    """Columns of some impressions."""

    impression: I64
    user: I64
    video: I64
    day: I64
    milliseconds: I64  # Time in milliseconds of the day.
    explored: NDArray[np.bool_]
    propensity: NDArray[np.float32]
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

    def at(self, places: range) -> Block:
        """Return the impressions at some places in the order of time, in that order."""
        place = np.arange(places.start, places.stop, dtype=np.int64)
        return self._block(self.world.at(place), place)

    def day_of_users(self, impressions: range, day: int) -> Block:
        """Return those of some impressions that fall on a day from 0 to 7, in the order of user and time."""
        world = self.world
        selected = []
        for start in range(impressions.start, impressions.stop, _SCAN_ROWS):
            candidates = np.arange(start, min(start + _SCAN_ROWS, impressions.stop), dtype=np.int64)
            places = world.place_of(candidates)
            inside = (places >= world.day_start(day)) & (places < world.day_start(day + 1))
            selected.append((candidates[inside], places[inside]))
        impression, place = (np.concatenate(each) for each in zip(*selected, strict=True))
        order = np.lexsort((place, world.user_of(impression)))
        return self._block(impression[order], place[order])

    def _block(self, impression: I64, place: I64) -> Block:
        world = self.world
        day, milliseconds = world.time_of(place)
        user = world.user_of(impression)
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
