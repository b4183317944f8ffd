"""Find columns that `ple-rec init` leaves to its user, with a question, and expressions to choose from if any fits.

They are columns whose wrong reading nobody would notice, such as 1,234 with an unclear comma, and columns that no
expression of prep.toml can read.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.init.column import PLAIN_THOUSANDS, Column, has_thousands, has_unclear_commas
from data_prep.sources.table import shown_value

_MAX_INTEGER = 2**63 - 1  # Largest integer that expressions can hold.


def find_question(column: Column) -> str:
    """Return why a column is left to the user, and what the user can write; empty if its role can be guessed."""
    if column.kind == "text" and has_thousands(column.values):
        return _thousands(column)
    if column.kind == "text" and has_unclear_commas(column.values):
        return _unclear_commas(column)
    if column.structure is not None and column.structure.cut is None:
        structure, example = column.structure, shown_value(column.structure.example)
        if structure.kind == "JSON":
            return (
                f"texts such as {example} look like JSON, but no field was found that is a number, a text or a boolean "
                "in many of them; write their parts as columns of their own"
            )
        return f"texts such as {example} are lists that no expression cuts; {structure.suggest_rewrite(column.source)}"
    if column.may_be_rounded:
        example, bits = pc.max(pc.abs(column.values)).as_py(), 24 if pa.types.is_float32(column.type) else 53
        return (
            f"floats as large as {example:.4g} do not hold every whole number beyond 2^{bits}: ids lost their last "
            "digits when they were written. Write the column as integers or text; if it counts something, add it as "
            "[[dense]]"
        )
    value_type = column.values.type
    if (
        column.kind in ("number", "list")
        and (pa.types.is_uint64(value_type) or pa.types.is_decimal(value_type))
        and column.distinct
    ):
        example = pc.max(pc.abs(column.values)).as_py()
        if example > _MAX_INTEGER:
            return (
                f"{value_type} as large as {example}, and prep reads integers up to 2^63 - 1; write the column as text"
            )
    return ""


def _thousands(column: Column) -> str:
    """Return the question about numbers whose commas may separate thousands or decimals, or that have a unit."""
    name = column.source
    texts = column.values.filter(pc.match_substring(column.values, ","))
    thousands = f"cast(replace({name}, ',', '') as double)"
    with_unit = texts.filter(pc.invert(pc.match_substring_regex(texts, PLAIN_THOUSANDS)))
    if len(with_unit):
        return f"{with_unit[0].as_py()!r} is text with a number and more; write the column as numbers"
    # Such as 1,234.5 or 1,234,567, in which a comma cannot separate decimals.
    unambiguous = texts.filter(pc.match_substring_regex(texts, "[.]|,.*,"))
    if len(unambiguous):
        example = unambiguous[0].as_py()
        return f"{example!r} is text; if it means {example.replace(',', '')}, read it by {thousands}"
    example = texts[0].as_py()
    return (
        f"{example!r} means {example.replace(',', '')} or {example.replace(',', '.')}; read it by {thousands}, or by "
        f"cast(replace({name}, ',', '.') as double)"
    )


def _unclear_commas(column: Column) -> str:
    """Return the question about numbers that have commas and dots, or commas in few rows."""
    name = column.source
    decimals = f"cast(replace({name}, ',', '.') as double)"
    thousands = f"cast(replace(replace({name}, '.', ''), ',', '.') as double)"
    # Such as 1.234,5 or 1.234.567, in which a dot cannot separate decimals.
    unambiguous = column.values.filter(pc.match_substring_regex(column.values, "[.].*[.,]"))
    if len(unambiguous):
        example = unambiguous[0].as_py()
        number = example.replace(".", "").replace(",", ".")
        return f"{example!r} is text; if it means {number}, read it by {thousands}"
    with_comma = pc.match_substring(column.values, ",")
    comma = column.values.filter(with_comma)[0].as_py()
    dots = column.values.filter(pc.match_substring(column.values, "."))
    if not len(dots):
        other = column.values.filter(pc.invert(with_comma))[0].as_py()
        return (
            f"{comma!r} stands beside {other!r}; if the comma separates decimals, read it by {decimals}; if it "
            f"separates items, by split({name}, ','), with bag = true"
        )
    dot = dots[0].as_py()
    question = f"{comma!r} stands beside {dot!r}; if both marks separate decimals, read it by {decimals}"
    if pc.all(pc.match_substring_regex(column.values, r"^[^.]*([.][0-9]{3})?$")).as_py():
        return f"{question}; if the dot separates thousands, by {thousands}"
    return question
