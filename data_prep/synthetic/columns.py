"""Blocks of the synthetic feed as Arrow tables: for a dataset directory, or as a raw log.

In a dataset, the ids of sparse features are rows of embedding tables, where row 0 is for missing values. In a raw log,
they are raw values: large scrambled integers, small codes, or words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.synthetic import entities
from data_prep.synthetic.feed import Block
from data_prep.synthetic.hashing import I64, Bijection
from data_prep.synthetic.world import DAY_MS, START_MS, World
from data_prep.transforms.columns import DAY_COLUMN
from ple_rec.config.schema import DenseFeature, Normaliser, SparseFeature, Task

# Number of values of each categorical feature, apart from the ids of users and videos.
CARDINALITY: Mapping[str, int] = {
    "age_band": entities.AGES,
    "gender": entities.GENDERS - 1,  # The last gender means unknown, which the column has as a missing value.
    "city_tier": entities.TIERS,
    "city": entities.TIERS * entities.CITIES_PER_TIER,
    "phone_brand": entities.PHONES,
    "phone_price": entities.PRICES,
    "system": entities.SYSTEMS,
    "user_active_degree": entities.DEGREES,
    "register_band": len(entities.REGISTER_EDGES_DAYS) + 1,
    "category": entities.CATEGORIES,
    "tag": entities.CATEGORIES * entities.TAGS_PER_CATEGORY,
    "author_id": entities.AUTHORS,
    "duration_band": len(entities.DURATION_EDGES_S) + 1,
    "upload_age_band": len(entities.UPLOAD_AGE_EDGES_DAYS) + 1,
    "upload_kind": entities.UPLOAD_KINDS,
    "music_kind": entities.MUSIC_KINDS,
    "hour": 24,
    "weekday": 7,
    "tab": entities.TABS,
    "position": entities.POSITIONS,
    "network": entities.NETWORKS,
    "auto_play": 2,
}
# Features that are words in a raw log: word i stands for code i.
WORDS: Mapping[str, tuple[str, ...]] = {
    "gender": ("f", "m"),
    "system": ("android", "ios", "harmony"),
    "user_active_degree": ("full_active", "high_active", "middle_active", "low_active"),
    "network": ("wifi", "4g", "5g", "3g"),
    "phone_brand": tuple(f"brand-{chr(ord('a') + i)}" for i in range(entities.PHONES)),
}
NORMALISERS: Mapping[str, Normaliser] = {
    "user_past_plays": "log",
    "user_follows": "log",
    "user_register_days": "quantile",
    "video_past_plays": "log",
    "video_past_ctr": "standard",
    "video_seconds": "log",
    "video_age_days": "standard",
    "author_fans": "log",
}
# Expected values of the labels, from which these were drawn.
TRUTHS = ("truth_vtr", "truth_vcr", "truth_share", "truth_comment", "truth_ctr")
# Columns of a dataset that are neither features nor labels nor sample spaces of tasks, so training does not read them.
HIDDEN = (*TRUTHS, "propensity", "is_random", DAY_COLUMN)

SPARSE = tuple(SparseFeature(name=name, table=name) for name in ("user_id", "video_id", *CARDINALITY))
DENSE = tuple(DenseFeature(name=name, normaliser=normaliser) for name, normaliser in NORMALISERS.items())
TASKS = (
    Task(name="vtr", kind="binary", label="valid_view"),
    Task(name="vcr", kind="regression", label="completion"),
    Task(name="share", kind="binary", label="is_share", space="is_click"),
    Task(name="comment", kind="binary", label="is_comment", space="is_click"),
    Task(name="ctr", kind="binary", label="click"),
)
# The statistics of the dataset give the correlations between labels for each value of these columns.
SLICES = ("auto_play", "network", "tab", "category", "duration_band", "user_active_degree", "age_band", "gender")
_ID_BITS = 62  # Number of bits of a user or video id in a raw log.


def table_rows(world: World) -> dict[str, int]:
    """Return the number of rows of every embedding table: row 0 for missing values, and one row per value."""
    sizes = {"user_id": world.users, "video_id": world.videos, **CARDINALITY}
    return {name: size + 1 for name, size in sizes.items()}


def dataset_schema() -> pa.Schema:
    """Return the Arrow schema of the dataset's Parquet files."""
    types: dict[str, pa.DataType] = {feature.name: pa.int32() for feature in SPARSE}
    types |= {feature.name: pa.float32() for feature in DENSE}
    types |= {task.label: pa.float32() for task in TASKS} | {"is_click": pa.bool_()}
    types |= dict.fromkeys(HIDDEN, pa.float32()) | {"is_random": pa.bool_(), DAY_COLUMN: pa.int32()}
    return pa.schema(list(types.items()))


def dataset_table(block: Block) -> pa.Table:
    """Return a block as rows of a dataset.

    The id of a user is 1 + its rank by activity, that of a video 1 + its rank by popularity. The id of another
    categorical feature is 1 + its code, or 0 for a missing value.
    """
    columns: dict[str, pa.Array] = {
        "user_id": pa.array((block.user + 1).astype(np.int32)),
        "video_id": pa.array((block.video + 1).astype(np.int32)),
    }
    codes = block.users.codes | block.videos.codes | block.contexts.codes
    for name, code in codes.items():
        # The code of a missing value is the largest number of its type, so adding 1 gives 0.
        columns[name] = pa.array((code + code.dtype.type(1)).astype(np.int32))
    columns |= _numbers(block)
    out = block.outcomes
    columns |= {
        "valid_view": pa.array(out.valid_view().astype(np.float32)),
        "completion": pa.array(out.completion(block.videos.duration_ms)),
        "is_share": pa.array(out.share.astype(np.float32)),
        "is_comment": pa.array(out.comment.astype(np.float32)),
        "click": pa.array(out.click.astype(np.float32)),
        "is_click": pa.array(out.click),  # The same as `click`; a sample space is a flag, and a label a number.
    }
    schema = dataset_schema()
    columns |= _hidden_columns(block)
    columns[DAY_COLUMN] = pa.array((block.day + START_MS // DAY_MS).astype(np.int32))
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def raw_table(world: World, block: Block) -> pa.Table:
    """Return a block as rows of a raw log, from which a preparation can compute the columns of the dataset.

    The hour and the weekday follow from `time_ms`, so they have no columns.
    """
    out = block.outcomes
    columns: dict[str, pa.Array] = {
        "user_id": pa.array(_scramble(world, "user ids", block.user)),
        "video_id": pa.array(_scramble(world, "video ids", block.video)),
        "time_ms": pa.array(START_MS + block.day * DAY_MS + block.milliseconds),
    }
    codes = block.users.codes | block.videos.codes | block.contexts.codes
    columns |= {name: _raw_code(name, code) for name, code in codes.items() if name not in ("hour", "weekday")}
    columns |= _numbers(block)
    columns |= {
        "duration_ms": pa.array(block.videos.duration_ms),
        "play_time_ms": pa.array(out.play_time_ms),
        "is_click": pa.array(out.click.astype(np.int8)),
        "is_share": pa.array(out.share.astype(np.int8)),
        "is_comment": pa.array(out.comment.astype(np.int8)),
    }
    return pa.table(columns | _hidden_columns(block))


def _numbers(block: Block) -> dict[str, pa.Array]:
    """Return the numeric features by column, with null for NaN."""
    return {
        name: pa.array(values, from_pandas=True)
        for name, values in (block.users.numbers | block.videos.numbers).items()
    }


def _hidden_columns(block: Block) -> dict[str, pa.Array]:
    """Return the columns of `HIDDEN` except the day."""
    truth = {name: pa.array(values) for name, values in block.outcomes.truth.items()}
    return truth | {"propensity": pa.array(block.propensity), "is_random": pa.array(block.explored)}


def _raw_code(name: str, code: NDArray[np.unsignedinteger[Any]]) -> pa.Array:
    missing = code == np.iinfo(code.dtype).max
    if name in WORDS:
        indices = pa.array(code.astype(np.int8), mask=missing)
        return pa.DictionaryArray.from_arrays(indices, pa.array(WORDS[name]))
    return pa.array(code.astype(np.int32), mask=missing)


def _scramble(world: World, purpose: str, rank: I64) -> I64:
    """Return the raw ids of users, given by rank of activity, or of videos, given by rank of popularity."""
    return Bijection(1 << _ID_BITS, world.key(purpose)).forward(rank + 1)
