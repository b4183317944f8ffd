"""Choose the expression and the seed by which rows are split into train, valid and test, if not by day.

`ple-rec init` writes the expression and the seed into prep.toml, the configuration of `ple-rec prep`. Prep hashes the
seed and the value of the expression, so rows with equal values lie in one split. The expression is the user, if the
sample has enough users; otherwise it is one column, or several joined columns, with many distinct values.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.init.column import EXACT_FLOAT64, Column
from data_prep.init.roles import Roles
from ple_rec.errors import UserError

SHARE = 0.1  # Share of the rows that become valid; test gets the same share.
_MIN_VALUES = 50  # With fewer distinct values, the sizes of the splits would be far from their shares.
_SEEDS = 100  # Number of seeds to try.
_PRECISION = 1_000  # Only integers and texts are hashed, so numbers with decimals become whole thousandths.
_MAX_COLUMNS = 4  # Greatest number of columns that the expression joins.


@dataclass(frozen=True)
class SplitExpression:
    """Expression and seed that assign rows to splits.

    Args:
        value: Expression; the hash of its value determines the split of a row.
        seed: Seed of the hash, with which every split gets rows of the sample; 0 if no seed that was tried does so.
        why: Reason for the guess, written as a comment into prep.toml.
    """

    value: str
    seed: int
    why: str


def split_expression(rows: pa.Table, roles: Roles) -> SplitExpression:
    """Return the expression and the seed that assign rows of a log to splits.

    The expression is the user if the sample has 50 users or more. Otherwise it joins up to four columns, as many as are
    needed for 50 distinct values.

    Args:
        rows: Sample of the log.
        roles: Guessed roles of its columns, such as user, time and labels.

    Raises:
        UserError: No column has values that can be hashed.
    """
    user = roles.user
    if user is not None and user.distinct >= _MIN_VALUES:
        texts = rows[user.name].drop_null()
        if user.kind == "number":
            texts = _text(user, texts)
        return SplitExpression(user.id_expression, _seed(texts), "all rows of a user lie in one split")
    parts: list[str] = []
    texts = pa.chunked_array([[""] * rows.num_rows])
    columns = _hashable_columns(roles)
    if not columns:
        value = "the log has neither days nor a column of integers, texts or small numbers"
        raise UserError(
            "--from", value, "rows are split by columns that tell them apart", "number the rows in a column"
        )
    for column in columns:
        text = pc.fill_null(_text(column, rows[column.name]), "")
        texts = pc.binary_join_element_wise(texts, text, ":") if parts else text
        parts.append(_expression(column))
        if pc.count_distinct(texts).as_py() >= min(_MIN_VALUES, rows.num_rows) or len(parts) == _MAX_COLUMNS:
            break
    value = parts[0] if len(parts) == 1 else "concat(" + ", ':', ".join(parts) + ")"
    note = "" if user is None else f"; {user.distinct} users are too few"
    return SplitExpression(value, _seed(texts), f"rows of equal value lie in one split{note}")


def _hashable_columns(roles: Roles) -> list[Column]:
    """Return the columns whose values can be hashed, those with the most distinct values first.

    Numbers with decimals come last.
    """
    labels = {label.column.name for label in roles.labels}
    columns = [column for column in roles.columns if column.kind in ("number", "text", "bool") and column.distinct]
    columns = [column for column in columns if column.is_integer or column.kind != "number" or _is_small(column)]
    # Rows with equal values lie in one split, so a split by a binary label would separate positive from negative rows.
    # Labels are therefore used only if there is no other column.
    columns = [column for column in columns if column.name not in labels] or columns
    return sorted(columns, key=lambda c: (c.kind == "number" and not c.is_integer, -c.distinct))


def _is_small(column: Column) -> bool:
    """Return whether the magnitude of every number, times 1,000, is below 2^53.

    A float64 holds every integer below 2^53 exactly, so the whole thousandths of such a number are not rounded.
    """
    return bool(pc.max(pc.abs(column.values)).as_py() * _PRECISION < EXACT_FLOAT64)


def _text(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the texts that prep hashes for the values of a column; null for a value that is null or not finite."""
    if column.kind == "bool":
        return values.cast(pa.int8()).cast(pa.string())
    if column.kind == "text" or pa.types.is_integer(values.type):
        return values.cast(pa.string())
    if pa.types.is_string(values.type):
        values = pc.replace_substring(values, ",", ".").cast(pa.float64())
    values = pc.if_else(pc.is_finite(values), values, None)
    values = values if column.is_integer else pc.multiply(values.cast(pa.float64()), float(_PRECISION))
    return pc.floor(values).cast(pa.int64(), safe=False).cast(pa.string())


def _expression(column: Column) -> str:
    """Return the expression of prep.toml that computes the texts of `_text`; a missing value becomes an empty text."""
    value = column.id_expression
    if column.kind == "bool":
        value = f"cast({column.expression} as int)"
    elif column.kind == "number" and not column.is_integer:
        value = f"floor({column.expression} * {_PRECISION})"
    if not column.nulls:
        return value
    return f"coalesce({value if column.kind == 'text' else f'cast({value} as string)'}, '')"


def _seed(texts: pa.ChunkedArray) -> int:
    """Return the first of 100 seeds with which every split gets a value; 0 if there is no such seed.

    Args:
        texts: Texts that prep hashes, for the rows of the sample.
    """
    values = texts.drop_null().unique().to_pylist()
    return next((seed for seed in range(_SEEDS) if len({_split(value, seed) for value in values}) == 3), 0)


def _split(value: str, seed: int) -> str:
    """Return the split that prep assigns to a value, as `data_prep.transforms.splits` computes it."""
    number = int(hashlib.md5(f"{seed}:{value}".encode(), usedforsecurity=False).hexdigest()[:8], 16) / 16**8
    return "test" if number < SHARE else "valid" if number < 2 * SHARE else "train"
