"""Users, videos and contexts: latent factors, and features that reveal a part of them.

Everything is computed from an id by hashing, so that 47 M users need no memory. The distribution of a small category
is a table of 256 codes, in which a random byte is looked up. Code 255 is a missing value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.synthetic.hashing import F32, F64, I32, I64, U64, byte, uniform16, uniform32, uniform64
from data_prep.synthetic.laws import PowerLaw, coarse
from data_prep.synthetic.world import SLOTS, World

U8 = NDArray[np.uint8]

LATENT = 8
MISSING = 255

AGES, GENDERS, TIERS, CITIES_PER_TIER = 8, 3, 5, 72
GROUPS = AGES * GENDERS * TIERS
CATEGORIES, TAGS_PER_CATEGORY, AUTHORS = 24, 25, 20_000
PHONES, PRICES, SYSTEMS, DEGREES = 12, 6, 3, 4
NETWORKS, WIFI, TABS, POSITIONS = 4, 0, 6, 20
UPLOAD_KINDS, MUSIC_KINDS = 5, 10
DURATION_EDGES_S = (10, 15, 20, 30, 45, 60, 90, 150)
AGE_EDGES_DAYS = (1, 2, 3, 7, 14, 30, 45)
DEGREE_ENDS = (0.05, 0.2, 0.5)  # Groups: the most active 5 % of users, the next 15 %, the next 30 %, and the rest.
REGISTER_EDGES_DAYS = (7, 30, 90, 180, 365, 730, 1095, 1460)


def _table(shares: Sequence[float], missing: float = 0.0) -> U8:
    """Return 256 codes in these proportions."""
    ends = np.cumsum([*shares, missing])
    ends = np.rint(ends / ends[-1] * 256).astype(np.int64)
    codes = [*range(len(shares)), MISSING]
    return np.repeat(np.array(codes, np.uint8), np.diff(ends, prepend=0))


def _bands(edges: Sequence[int], largest: int) -> U8:
    """Return how many edges each whole number from 0 to `largest` reaches."""
    return np.searchsorted(edges, np.arange(largest + 1), side="right").astype(np.uint8)


DURATION_BAND, AGE_BAND = _bands(DURATION_EDGES_S, 256), _bands(AGE_EDGES_DAYS, 60)
REGISTER_BAND = _bands(REGISTER_EDGES_DAYS, 2048)
AGE_TABLE = _table((0.06, 0.16, 0.2, 0.19, 0.15, 0.11, 0.08, 0.05))
GENDER_TABLE = _table((0.49, 0.47, 0.04))
TIER_TABLE = _table((0.12, 0.22, 0.26, 0.24, 0.16))
PHONE_TABLE = _table([1 / (i + 2) for i in range(PHONES)])
PRICE_TABLE = _table((0.1, 0.22, 0.28, 0.2, 0.13, 0.07))
SYSTEM_TABLE = _table((0.72, 0.26, 0.02))
NETWORK_TABLE = _table((0.55, 0.3, 0.12, 0.03))
TAB_TABLE = _table((0.5, 0.2, 0.12, 0.09, 0.06, 0.03))
UPLOAD_TABLE = _table((0.55, 0.2, 0.12, 0.08, 0.05))
MUSIC_TABLE = _table([1 / (i + 1.5) for i in range(MUSIC_KINDS)], missing=0.05)
# Category by slot of popularity. Some categories have four slots, others one.
SLOT_CATEGORY = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, *range(9, 24)], np.uint8)
SLOT_CATEGORY = np.concatenate([SLOT_CATEGORY, np.array([9, 10, 11], np.uint8)])
assert len(SLOT_CATEGORY) == SLOTS


@dataclass(frozen=True)
class Users:
    """Columns of the users of a block, with one entry for each impression."""

    latent: NDArray[np.int16]  # Shape (n, LATENT).
    group: I64
    leaning: F32  # In (-1, 1): a user with a larger value clicks more.
    expected: F32  # Impressions in the 8 days.
    codes: dict[str, NDArray[np.unsignedinteger[Any]]]
    numbers: dict[str, F32]


@dataclass(frozen=True)
class Videos:
    """Columns of the videos of a block, with one entry for each impression."""

    latent: NDArray[np.int16]  # Shape (n, LATENT).
    quality: F32  # In (-1, 1).
    duration_ms: I32
    age: F32  # In (0, 1), in units of 60 days.
    codes: dict[str, NDArray[np.unsignedinteger[Any]]]
    numbers: dict[str, F32]


@dataclass(frozen=True)
class Contexts:
    """Columns of the impressions of a block."""

    auto: NDArray[np.bool_]  # True if the video starts by itself.
    position: U8
    tab: U8
    codes: dict[str, NDArray[np.unsignedinteger[Any]]]


class FeatureGenerator:
    """Generator of the features of a world.

    The latent factor of a user is 3 times that of the group (age, gender, tier of the city) plus 2 times one of its
    own. That of a video is 3 times that of the category plus 2 times one of its own. So the features reveal 9/13 of the
    variance of each factor.

    Args:
        world: Sizes and seed.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    @cached_property
    def group_latent(self) -> NDArray[np.int8]:
        """Latent factors of the groups of users, of shape (GROUPS, LATENT)."""
        return _latent(self.world.bits("group", np.arange(GROUPS)))

    @cached_property
    def category_latent(self) -> NDArray[np.int8]:
        """Latent factors of the categories of videos, of shape (CATEGORIES, LATENT)."""
        return _latent(self.world.bits("category", np.arange(CATEGORIES)))

    @cached_property
    def favourite_slots(self) -> I64:
        """Slots of the two categories that each group likes best by factors 0 to 3, of shape (GROUPS, 2)."""
        taste = self.group_latent.astype(np.int64)[:, :4] @ self.category_latent.astype(np.int64)[:, :4].T
        best = np.argsort(-taste, axis=1, kind="stable")[:, :2]
        slots = [np.flatnonzero(category == SLOT_CATEGORY) for category in range(CATEGORIES)]
        return np.array([[int(slots[c][0]) for c in row] for row in best], dtype=np.int64)

    def users(self, user: I64) -> Users:
        """Return the features of users by rank."""
        world = self.world
        user_words, feature_words = world.bits("user", user), world.bits("user features", user)
        age, gender = AGE_TABLE[byte(user_words, 0)], GENDER_TABLE[byte(user_words, 1)]
        tier = TIER_TABLE[byte(user_words, 2)]
        group = (age.astype(np.int64) * GENDERS + gender) * TIERS + tier
        leaning = uniform16(user_words, 3)
        leaning = leaning + leaning - np.float32(1)
        city = tier.astype(np.uint16) * CITIES_PER_TIER + (byte(user_words, 3).astype(np.uint16) * CITIES_PER_TIER >> 8)
        expected = (world.activity.density(user) * world.rows).astype(np.float32)
        noise, joined = uniform16(feature_words, 2), uniform16(feature_words, 3)
        register_days = coarse(np.float32(1) + joined * joined * np.float32(1800), 5)
        own_latent = _latent(world.bits("user latent", user))
        degree = np.zeros(len(user), np.uint8)
        for end in DEGREE_ENDS:
            degree += user >= end * world.users
        return Users(
            latent=_mix(self.group_latent[group], own_latent),
            group=group,
            leaning=leaning,
            expected=expected,
            codes={
                "age_band": age,
                "gender": np.where(gender == GENDERS - 1, np.uint8(MISSING), gender),
                "city_tier": tier,
                "city": np.where(byte(user_words, 4) < 5, np.uint16(0xFFFF), city),
                "phone_brand": PHONE_TABLE[byte(feature_words, 0)],
                "phone_price": PRICE_TABLE[byte(feature_words, 1)],
                "system": SYSTEM_TABLE[byte(feature_words, 2)],
                "user_active_degree": degree,
                "register_band": REGISTER_BAND[register_days.astype(np.intp)],
            },
            numbers={
                "user_past_plays": coarse(np.floor(expected * (np.float32(2) + noise * np.float32(3))), 5),
                "user_follows": coarse(np.floor((leaning + np.float32(1.2)) * noise * noise * np.float32(300)), 5),
                "user_register_days": np.where(byte(feature_words, 3) < 5, np.float32(np.nan), np.floor(register_days)),
            },
        )

    def videos(self, video: I64) -> Videos:
        """Return the features of videos by rank."""
        world = self.world
        video_words, feature_words = world.bits("video", video), world.bits("video features", video)
        category = SLOT_CATEGORY[video % SLOTS]
        quality = uniform16(video_words, 0)
        quality = quality + quality - np.float32(1)
        length = uniform16(video_words, 1)
        square = length * length
        seconds = np.float32(5) + np.float32(25) * square + np.float32(200) * (square * square) * (square * square)
        duration_ms = (seconds * np.float32(1000)).astype(np.int32)
        fame = uniform16(video_words, 2)
        author = (fame * fame * np.float32(AUTHORS)).astype(np.uint16)
        aged = uniform16(video_words, 3)
        age_days = aged * aged * np.float32(60)
        noise = uniform16(feature_words, 3)
        plays = (world.popularity.density(video) * (world.rows * 2.0)).astype(np.float32) * (age_days + np.float32(1))
        ctr = np.float32(0.42) + np.float32(0.2) * quality + np.float32(0.1) * (noise - np.float32(0.5))
        return Videos(
            latent=_mix(self.category_latent[category], _latent(world.bits("video latent", video))),
            quality=quality,
            duration_ms=duration_ms,
            age=aged,
            codes={
                "category": category,
                "tag": category.astype(np.uint16) * TAGS_PER_CATEGORY
                + (byte(feature_words, 0).astype(np.uint16) * TAGS_PER_CATEGORY >> 8),
                "author_id": author,
                "duration_band": DURATION_BAND[seconds.astype(np.intp)],
                "upload_age_band": AGE_BAND[age_days.astype(np.intp)],
                "upload_kind": UPLOAD_TABLE[byte(feature_words, 1)],
                "music_kind": MUSIC_TABLE[byte(feature_words, 2)],
            },
            numbers={
                "video_past_plays": coarse(np.floor(plays), 5),
                "video_past_ctr": np.where(
                    age_days < np.float32(0.5), np.float32(np.nan), np.rint(ctr * np.float32(100)) * np.float32(0.01)
                ),
                "video_seconds": np.floor(seconds),
                "video_age_days": np.floor(age_days),
                "author_fans": coarse(np.floor(np.float32(2e6) / (fame * np.float32(400) + np.float32(1))), 5),
            },
        )

    def contexts(self, words: U64, day: I64, milliseconds: I64) -> Contexts:
        """Return the features of impressions.

        Args:
            words: 64 random bits for each impression.
            day: Day of each impression, from 0 to 7.
            milliseconds: Time of each impression in milliseconds of the day.
        """
        network, tab = NETWORK_TABLE[byte(words, 0)], TAB_TABLE[byte(words, 1)]
        position = (byte(words, 2).astype(np.uint16) * POSITIONS >> 8).astype(np.uint8)
        auto = (network == WIFI) & (byte(words, 3) < 192)
        return Contexts(
            auto=auto,
            position=position,
            tab=tab,
            codes={
                "hour": (milliseconds // 3_600_000).astype(np.uint8),
                "weekday": (day % 7).astype(np.uint8),
                "tab": tab,
                "position": position,
                "network": network,
                "auto_play": auto.view(np.uint8),
            },
        )


class Policy:
    """Recommender that chose the videos of the log, with its propensities.

    A share `EXPLORED` of the impressions shows a video at random, with propensity 1 / V. The others follow the shares q
    of the law of popularity:

        p(v | u) = (1 - w) q(v) + w/2 sum over the two favourite slots f of [v in f] q(block of v),    w = PERSONAL

    Args:
        features: Generator of the features, which knows the favourite slots.
    """

    EXPLORED = 0.01
    PERSONAL = 0.4

    def __init__(self, features: FeatureGenerator) -> None:
        self.features, self.world = features, features.world

    def choose(self, impression: I64, group: I64) -> tuple[I64, NDArray[np.bool_], F32]:
        """Return the video of each impression, whether it is shown at random, and its propensity."""
        videos = self.world.videos
        coin, which = uniform32(self.world.bits("policy", impression))
        share = uniform64(self.world.bits("video of impression", impression))
        explored = coin < np.float32(self.EXPLORED)
        chosen = self.world.popularity.rank_at(share)
        first, second = self._favourites(group)
        slot = chosen % SLOTS
        half = np.float32(self.PERSONAL / 2)
        chosen += np.where(which < half, first, np.where(which < half + half, second, slot)) - slot
        propensity = self.propensity(chosen, group)
        if (where := np.flatnonzero(explored)).size:
            chosen[where] = np.minimum((share[where] * videos).astype(np.int64), videos - 1)
            propensity[where] = 1.0 / videos
        return chosen, explored, coarse(propensity.astype(np.float32), 12)

    def propensity(self, video: I64, group: I64) -> F64:
        """Return p(video | a user of the group) without exploration."""
        law = self.world.popularity
        slot = video % SLOTS
        liked = np.zeros(len(video))
        for favourite in self._favourites(group):
            liked += slot == favourite
        liked *= (self.PERSONAL / 2) * _share(law, video - slot, SLOTS)
        return liked + (1.0 - self.PERSONAL) * _share(law, video, 1)

    def _favourites(self, group: I64) -> tuple[I64, I64]:
        first, second = self.features.favourite_slots.T
        return first[group], second[group]


def _share(law: PowerLaw, first: I64, count: int) -> F64:
    return law.below((first + count).astype(np.float64)) - law.below(first.astype(np.float64))


def _latent(words: U64) -> NDArray[np.int8]:
    return words.view(np.int8).reshape(len(words), LATENT)


def _mix(common: NDArray[np.int8], own: NDArray[np.int8]) -> NDArray[np.int16]:
    out = common.astype(np.int16)
    out *= np.int16(3)
    out += own
    out += own
    return out
