"""Features of users, videos and contexts of the synthetic feed, and the recommender that chose the videos of the log.

Users and videos have latent factors, which determine what a user likes (`outcomes.py`). A model does not see the
factors, but the features partly reveal them. Everything is computed by hashing from the number of a user, a video or an
impression, so 47 M users need no memory. A categorical feature is drawn by looking up a random byte in a table of 256
codes, in which each code occurs as often as its probability says. The largest number of a column's type stands for a
missing value: 255 in a column of uint8, 65,535 in one of uint16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.synthetic.hashing import F32, F64, I32, I64, U64, byte_of_word, uniform16, uniform32, uniform64
from data_prep.synthetic.laws import PowerLaw, round_mantissa
from data_prep.synthetic.world import SLOTS, World

U8 = NDArray[np.uint8]

LATENT = 8  # Number of latent factors.
MISSING = 255  # Code of a missing value in a column of uint8.

# Numbers of values of features. The last gender means unknown, which the column has as a missing value.
AGES, GENDERS, TIERS, CITIES_PER_TIER = 8, 3, 5, 72
GROUPS = AGES * GENDERS * TIERS
CATEGORIES, TAGS_PER_CATEGORY, AUTHORS = 24, 25, 20_000
PHONES, PRICES, SYSTEMS, DEGREES = 12, 6, 3, 4
# WIFI is the code of the network on which videos may start by themselves.
NETWORKS, WIFI, TABS, POSITIONS = 4, 0, 6, 20
UPLOAD_KINDS, MUSIC_KINDS = 5, 10
DURATION_EDGES_S = (10, 15, 20, 30, 45, 60, 90, 150)
UPLOAD_AGE_EDGES_DAYS = (1, 2, 3, 7, 14, 30, 45)
DEGREE_ENDS = (0.05, 0.2, 0.5)  # Degrees: the most active 5 % of users, the next 15 %, the next 30 %, the rest.
REGISTER_EDGES_DAYS = (7, 30, 90, 180, 365, 730, 1095, 1460)


def _code_table(shares: Sequence[float], missing: float = 0.0) -> U8:
    """Return a table of 256 codes, which occur in the given proportions; MISSING occurs in the proportion `missing`."""
    ends = np.cumsum([*shares, missing])
    ends = np.rint(ends / ends[-1] * 256).astype(np.int64)
    codes = [*range(len(shares)), MISSING]
    return np.repeat(np.array(codes, np.uint8), np.diff(ends, prepend=0))


def _band_table(edges: Sequence[int], largest: int) -> U8:
    """Return, for each integer from 0 to `largest`, the number of edges that are at most the integer."""
    return np.searchsorted(edges, np.arange(largest + 1), side="right").astype(np.uint8)


# Band of each number of seconds (durations) or of days (age of a video, time since a user's registration).
DURATION_BAND, UPLOAD_AGE_BAND = _band_table(DURATION_EDGES_S, 256), _band_table(UPLOAD_AGE_EDGES_DAYS, 60)
REGISTER_BAND = _band_table(REGISTER_EDGES_DAYS, 2048)
AGE_TABLE = _code_table((0.06, 0.16, 0.2, 0.19, 0.15, 0.11, 0.08, 0.05))
GENDER_TABLE = _code_table((0.49, 0.47, 0.04))
TIER_TABLE = _code_table((0.12, 0.22, 0.26, 0.24, 0.16))
PHONE_TABLE = _code_table([1 / (i + 2) for i in range(PHONES)])
PRICE_TABLE = _code_table((0.1, 0.22, 0.28, 0.2, 0.13, 0.07))
SYSTEM_TABLE = _code_table((0.72, 0.26, 0.02))
NETWORK_TABLE = _code_table((0.55, 0.3, 0.12, 0.03))
TAB_TABLE = _code_table((0.5, 0.2, 0.12, 0.09, 0.06, 0.03))
UPLOAD_TABLE = _code_table((0.55, 0.2, 0.12, 0.08, 0.05))
MUSIC_TABLE = _code_table([1 / (i + 1.5) for i in range(MUSIC_KINDS)], missing=0.05)
# Category of each slot; the video of rank r by popularity is in slot r mod SLOTS. Categories have one to four slots.
SLOT_CATEGORY = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, *range(9, 24)], np.uint8)
SLOT_CATEGORY = np.concatenate([SLOT_CATEGORY, np.array([9, 10, 11], np.uint8)])
assert len(SLOT_CATEGORY) == SLOTS


@dataclass(frozen=True)
class Users:
    """Attributes of the users of some impressions, with one entry per impression."""

    latent: NDArray[np.int16]  # Shape (n, LATENT).
    group: I64  # Number of the combination of age, gender and tier of the city.
    click_bias: F32  # In [-1, 1): a user with a larger value clicks more.
    expected_impressions: F32  # Expected number of impressions in the 8 days.
    codes: dict[str, NDArray[np.unsignedinteger[Any]]]  # Categorical features by column.
    numbers: dict[str, F32]  # Numeric features by column, with NaN for missing values.


@dataclass(frozen=True)
class Videos:
    """Attributes of the videos of some impressions, with one entry per impression."""

    latent: NDArray[np.int16]  # Shape (n, LATENT).
    quality: F32  # In [-1, 1): a video with a larger value is clicked and watched more.
    duration_ms: I32
    age: F32  # In [0, 1): the square root of the age in units of 60 days.
    codes: dict[str, NDArray[np.unsignedinteger[Any]]]  # Categorical features by column.
    numbers: dict[str, F32]  # Numeric features by column, with NaN for missing values.


@dataclass(frozen=True)
class Contexts:
    """Attributes of the contexts of some impressions, with one entry per impression."""

    auto: NDArray[np.bool_]  # True if the video may start by itself (autoplay).
    position: U8  # Position in the feed, from 0.
    tab: U8  # Code of the tab of the app.
    codes: dict[str, NDArray[np.unsignedinteger[Any]]]  # Categorical features by column.


class FeatureGenerator:
    """Generator of the features of users, videos and contexts.

    The latent factors of a user are 3 times those of the user's group (age, gender, tier of the city) plus 2 times
    individual ones. Those of a video are 3 times those of its category plus 2 times individual ones. So group and
    category explain 3^2 / (3^2 + 2^2) = 9/13 of the variance of each factor.

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
        """First slot of each of the two categories that best match a group, of shape (GROUPS, 2).

        The match is in factors 0 to 3, on which a click depends (`outcomes.py`).
        """
        taste = self.group_latent.astype(np.int64)[:, :4] @ self.category_latent.astype(np.int64)[:, :4].T
        best = np.argsort(-taste, axis=1, kind="stable")[:, :2]
        slots = [np.flatnonzero(category == SLOT_CATEGORY) for category in range(CATEGORIES)]
        return np.array([[int(slots[c][0]) for c in row] for row in best], dtype=np.int64)

    def users(self, user: I64) -> Users:
        """Return the features of users, given by their ranks by activity."""
        world = self.world
        user_words, feature_words = world.bits("user", user), world.bits("user features", user)
        age, gender = AGE_TABLE[byte_of_word(user_words, 0)], GENDER_TABLE[byte_of_word(user_words, 1)]
        tier = TIER_TABLE[byte_of_word(user_words, 2)]
        group = (age.astype(np.int64) * GENDERS + gender) * TIERS + tier
        click_bias = uniform16(user_words, 3)
        click_bias = click_bias + click_bias - np.float32(1)
        city = tier.astype(np.uint16) * CITIES_PER_TIER + (
            byte_of_word(user_words, 3).astype(np.uint16) * CITIES_PER_TIER >> 8
        )
        expected_impressions = (world.activity.pdf(user) * world.rows).astype(np.float32)
        noise, joined = uniform16(feature_words, 2), uniform16(feature_words, 3)
        register_days = round_mantissa(np.float32(1) + joined * joined * np.float32(1800), 5)
        individual_latent = _latent(world.bits("user latent", user))
        degree = np.zeros(len(user), np.uint8)
        for end in DEGREE_ENDS:
            degree += user >= end * world.users
        return Users(
            latent=_combine(self.group_latent[group], individual_latent),
            group=group,
            click_bias=click_bias,
            expected_impressions=expected_impressions,
            codes={
                "age_band": age,
                "gender": np.where(gender == GENDERS - 1, np.uint8(MISSING), gender),
                "city_tier": tier,
                "city": np.where(byte_of_word(user_words, 4) < 5, np.uint16(0xFFFF), city),
                "phone_brand": PHONE_TABLE[byte_of_word(feature_words, 0)],
                "phone_price": PRICE_TABLE[byte_of_word(feature_words, 1)],
                "system": SYSTEM_TABLE[byte_of_word(feature_words, 2)],
                "user_active_degree": degree,
                "register_band": REGISTER_BAND[register_days.astype(np.intp)],
            },
            numbers={
                "user_past_plays": round_mantissa(
                    np.floor(expected_impressions * (np.float32(2) + noise * np.float32(3))), 5
                ),
                "user_follows": round_mantissa(
                    np.floor((click_bias + np.float32(1.2)) * noise * noise * np.float32(300)), 5
                ),
                "user_register_days": np.where(
                    byte_of_word(feature_words, 3) < 5, np.float32(np.nan), np.floor(register_days)
                ),
            },
        )

    def videos(self, video: I64) -> Videos:
        """Return the features of videos, given by their ranks by popularity."""
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
        plays = (world.popularity.pdf(video) * (world.rows * 2.0)).astype(np.float32) * (age_days + np.float32(1))
        ctr = np.float32(0.42) + np.float32(0.2) * quality + np.float32(0.1) * (noise - np.float32(0.5))
        return Videos(
            latent=_combine(self.category_latent[category], _latent(world.bits("video latent", video))),
            quality=quality,
            duration_ms=duration_ms,
            age=aged,
            codes={
                "category": category,
                "tag": category.astype(np.uint16) * TAGS_PER_CATEGORY
                + (byte_of_word(feature_words, 0).astype(np.uint16) * TAGS_PER_CATEGORY >> 8),
                "author_id": author,
                "duration_band": DURATION_BAND[seconds.astype(np.intp)],
                "upload_age_band": UPLOAD_AGE_BAND[age_days.astype(np.intp)],
                "upload_kind": UPLOAD_TABLE[byte_of_word(feature_words, 1)],
                "music_kind": MUSIC_TABLE[byte_of_word(feature_words, 2)],
            },
            numbers={
                "video_past_plays": round_mantissa(np.floor(plays), 5),
                "video_past_ctr": np.where(
                    age_days < np.float32(0.5), np.float32(np.nan), np.rint(ctr * np.float32(100)) * np.float32(0.01)
                ),
                "video_seconds": np.floor(seconds),
                "video_age_days": np.floor(age_days),
                "author_fans": round_mantissa(np.floor(np.float32(2e6) / (fame * np.float32(400) + np.float32(1))), 5),
            },
        )

    def contexts(self, words: U64, day: I64, milliseconds: I64) -> Contexts:
        """Return the features of impressions.

        Args:
            words: 64 random bits of each impression.
            day: Day of each impression, from 0 to 7.
            milliseconds: Time of each impression in milliseconds of the day.
        """
        network, tab = NETWORK_TABLE[byte_of_word(words, 0)], TAB_TABLE[byte_of_word(words, 1)]
        position = (byte_of_word(words, 2).astype(np.uint16) * POSITIONS >> 8).astype(np.uint8)
        auto = (network == WIFI) & (byte_of_word(words, 3) < 192)
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

    The share `EXPLORED` of the impressions shows one of all V videos, drawn uniformly, with propensity 1 / V. In the
    others, the probability of video v for user u follows from q, the power law of popularity:

        p(v | u) = (1 - w) q(v) + w/2 sum over the two favourite slots f of u of [v in f] q(B(v)),    w = PERSONAL

    A slot is a class of the ranks modulo `SLOTS` (`world.py`). B(v) are the `SLOTS` consecutive ranks, beginning with a
    multiple of `SLOTS`, that contain v.

    Args:
        features: Generator of the features, which has the favourite slots of each group of users.
    """

    EXPLORED = 0.01
    PERSONAL = 0.4

    def __init__(self, features: FeatureGenerator) -> None:
        self.features, self.world = features, features.world

    def choose(self, impression: I64, group: I64) -> tuple[I64, NDArray[np.bool_], F32]:
        """Return for each impression its video, whether that was drawn uniformly, and the propensity.

        Args:
            impression: Numbers of the impressions.
            group: Group of the user of each impression.
        """
        videos = self.world.videos
        coin, which = uniform32(self.world.bits("policy", impression))
        share = uniform64(self.world.bits("video of impression", impression))
        explored = coin < np.float32(self.EXPLORED)
        chosen = self.world.popularity.inverse_cdf(share)
        first, second = self._favourites(group)
        slot = chosen % SLOTS
        half = np.float32(self.PERSONAL / 2)
        # A video that is moved to a favourite slot stays among the same SLOTS consecutive ranks.
        chosen += np.where(which < half, first, np.where(which < half + half, second, slot)) - slot
        propensity = self.propensity(chosen, group)
        if (where := np.flatnonzero(explored)).size:
            chosen[where] = np.minimum((share[where] * videos).astype(np.int64), videos - 1)
            propensity[where] = 1.0 / videos
        return chosen, explored, round_mantissa(propensity.astype(np.float32), 12)

    def propensity(self, video: I64, group: I64) -> F64:
        """Return p(v | u) of the class docstring for each video and the group of the user."""
        law = self.world.popularity
        slot = video % SLOTS
        liked = np.zeros(len(video))
        for favourite in self._favourites(group):
            liked += slot == favourite
        liked *= (self.PERSONAL / 2) * _probability(law, video - slot, SLOTS)
        return liked + (1.0 - self.PERSONAL) * _probability(law, video, 1)

    def _favourites(self, group: I64) -> tuple[I64, I64]:
        first, second = self.features.favourite_slots.T
        return first[group], second[group]


def _probability(law: PowerLaw, first: I64, count: int) -> F64:
    return law.cdf((first + count).astype(np.float64)) - law.cdf(first.astype(np.float64))


def _latent(words: U64) -> NDArray[np.int8]:
    """Return the eight bytes of each word as latent factors from -128 to 127."""
    return words.view(np.int8).reshape(len(words), LATENT)


def _combine(common: NDArray[np.int8], individual: NDArray[np.int8]) -> NDArray[np.int16]:
    """Return 3 common + 2 individual."""
    out = common.astype(np.int16)
    out *= np.int16(3)
    out += individual
    out += individual
    return out
