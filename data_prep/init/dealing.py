"""What the rows of a log without days are dealt out by: an expression whose hash leaves no split empty."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.init.column import EXACT, Column
from data_prep.init.roles import Roles
from ple_rec.errors import UserError

SHARE = 0.1  # of valid, and of test
_LEAST = 50  # values that can be dealt out
_SEEDS = 100
_PARTS = 1_000  # of one, to which numbers are cut
_MOST_PARTS = 4  # columns that tell a row


@dataclass(frozen=True)
class Dealing:
    """How rows are dealt out.

    Args:
        value: Expression whose hash decides.
        seed: Seed by which no split of the sample is empty.
        why: Reason of the guess.
    """

    value: str
    seed: int
    why: str


def dealing_of(rows: pa.Table, roles: Roles) -> Dealing:
    """Return what the rows of a log are dealt out by.

    Args:
        rows: A sample of the log.
        roles: Guessed roles of its columns.

    Raises:
        UserError: no column tells its rows apart.
    """
    user = roles.user
    if user is not None and user.distinct >= _LEAST:
        texts = rows[user.name].drop_null()
        if user.kind == "number":
            texts = _text(user, texts)
        return Dealing(user.id_expression, _seed(texts), "all rows of a user lie in one split")
    parts: list[str] = []
    texts = pa.chunked_array([[""] * rows.num_rows])
    tellers = _tellers(roles)
    if not tellers:
        value = "the log has neither days nor a column of integers, texts or small numbers"
        raise UserError(
            "--from", value, "a split deals rows out by what tells them apart", "number the rows in a column"
        )
    for column in tellers:
        text = pc.fill_null(_text(column, rows[column.name]), "")
        texts = pc.binary_join_element_wise(texts, text, ":") if parts else text
        parts.append(_expression(column))
        if pc.count_distinct(texts).as_py() >= min(_LEAST, rows.num_rows) or len(parts) == _MOST_PARTS:
            break
    value = parts[0] if len(parts) == 1 else "concat(" + ", ':', ".join(parts) + ")"
    few = "" if user is None else f"; {user.distinct} users are too few"
    return Dealing(value, _seed(texts), f"rows of equal value lie in one split{few}")


def _tellers(roles: Roles) -> list[Column]:
    """Return the columns that may tell a row from others, the best first."""
    labels = {label.column.name for label in roles.labels}
    able = [column for column in roles.columns if column.kind in ("number", "text", "bool") and column.distinct]
    able = [column for column in able if column.is_integer or column.kind != "number" or _is_small(column)]
    others = [column for column in able if column.name not in labels] or able  # a split by label has one label
    return sorted(others, key=lambda c: (c.kind == "number" and not c.is_integer, -c.distinct))


def _is_small(column: Column) -> bool:
    """Return whether a thousand times the numbers are integers that floats hold exactly."""
    return bool(pc.max(pc.abs(column.values)).as_py() * _PARTS < EXACT)


def _text(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as prep hashes them."""
    if column.kind == "bool":
        return values.cast(pa.int8()).cast(pa.string())
    if column.kind == "text" or pa.types.is_integer(values.type):
        return values.cast(pa.string())
    if pa.types.is_string(values.type):
        values = pc.replace_substring(values, ",", ".").cast(pa.float64())
    values = pc.if_else(pc.is_finite(values), values, None)
    values = values if column.is_integer else pc.multiply(values.cast(pa.float64()), float(_PARTS))
    return pc.floor(values).cast(pa.int64(), safe=False).cast(pa.string())


def _expression(column: Column) -> str:
    """Return the expression of `_text`, empty where there is no value."""
    value = column.id_expression
    if column.kind == "bool":
        value = f"cast({column.expression} as int)"
    elif column.kind == "number" and not column.is_integer:
        value = f"floor({column.expression} * {_PARTS})"
    if not column.nulls:
        return value
    return f"coalesce({value if column.kind == 'text' else f'cast({value} as string)'}, '')"


def _seed(texts: pa.ChunkedArray) -> int:
    """Return the first seed by which each split has a row; 0 where there is none."""
    values = texts.drop_null().unique().to_pylist()
    return next((seed for seed in range(_SEEDS) if len({_split(value, seed) for value in values}) == 3), 0)


def _split(value: str, seed: int) -> str:
    """Return the split of a value as `data_prep.transforms.splits` deals it out."""
    number = int(hashlib.md5(f"{seed}:{value}".encode(), usedforsecurity=False).hexdigest()[:8], 16) / 16**8
    return "test" if number < SHARE else "valid" if number < 2 * SHARE else "train"
