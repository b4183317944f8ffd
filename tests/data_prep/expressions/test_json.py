"""`json` of expressions against Python's `json` as the reference, on DuckDB and, as slow tests, on a real Spark."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import ibis
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep.expressions import parse
from data_prep.expressions.json_text import json_valid, plain_path, with_fields
from ple_rec.errors import UserError
from tests.data_prep.expressions.json_documents import DOCUMENTS, LETTERS, PATHS, expressions_at, json_texts

INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class Token(str):
    """Text of a number of a JSON text."""


def reference(document: str | None, path: Sequence[str | int], target: str) -> Any:
    """Return what `cast(json(document, path) as target)` is, by Python's parser."""
    try:
        result: Any = json.loads(
            document or "",
            object_pairs_hook=lambda pairs: dict(reversed(pairs)),
            parse_int=Token,
            parse_float=Token,
            parse_constant=lambda word: None,
        )
        for step in path:
            if not isinstance(result, dict if isinstance(step, str) else list):
                return None
            result = cast(Any, result)[step]
    except (ValueError, LookupError):
        return None
    return convert(result, target)


def convert(result: Any, target: str) -> Any:
    """Return a value of a JSON text as a value of the type `target`."""
    is_number = isinstance(result, Token)
    if not isinstance(result, str | bool) or (target == "string" and (is_number or isinstance(result, bool))):
        return None
    if target == "string":
        return result
    if isinstance(result, bool):
        return {"boolean": bool, "int": int, "double": float}[target](result)
    number = float(result) if re.fullmatch(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *", result) else None
    number = None if number is None or math.isinf(number) else number
    if result == "-0" and is_number:
        number = 0.0
    if target == "double":
        return number
    if target == "boolean":
        words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
        if is_number:
            return None if number is None else number != 0
        return words.get(result.strip(" \t\n\r\v\f").translate(str.maketrans("TRUEFALS", "truefals")))
    if re.fullmatch(r" *[+-]?[0-9]+ *", result):
        whole = int(result)
    elif is_number and number is not None:
        whole = int(number)
    else:
        return None
    return whole if INT_MIN <= whole <= INT_MAX else None


def steps_of(path: str) -> list[str | int]:
    """Return the names and indices of one of `PATHS`."""
    steps = re.findall(r"""\.(\w+)|\."([^"]+)"|\[(\d+)\]""", path)
    return [int(index) if index else plain or quoted for plain, quoted, index in steps]


def values(documents: Sequence[str | None], texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of expressions over a column `d` on DuckDB."""
    table = ibis.memtable(pa.table({"d": pa.array(documents, pa.string())}))
    columns = {f"e{i}": parse(text, "t").build({"d": table.d}) for i, text in enumerate(texts)}
    result = ibis.duckdb.connect().to_pyarrow(table.select(**columns))
    return {text: result[f"e{i}"].to_pylist() for i, text in enumerate(texts)}


def differences(documents: Sequence[str | None], paths: Mapping[str, Sequence[str | int]]) -> list[Any]:
    """Return where DuckDB and the reference differ."""
    texts = {(path, target): text for path in paths for target, text in expressions_at(path).items()}
    result = values(documents, list(texts.values()))
    return [
        (document, text, got, expected)
        for (path, target), text in texts.items()
        for document, got in zip(documents, result[text], strict=True)
        if repr(got) != repr(expected := reference(document, paths[path], target))
    ]


def test_each_type_of_field_becomes_each_type() -> None:
    fields = [
        "1",
        "0",
        "1.9",
        "-1.9",
        "1e3",
        "true",
        "false",
        "null",
        '"12"',
        '" T "',
        '"1.5"',
        '"x"',
        "{}",
        "[1]",
        '""',
    ]
    result = values([f'{{"a": {each}}}' for each in fields], list(expressions_at("$.a").values()))
    n = None
    assert list(result.values()) == [
        [n, n, n, n, n, n, n, n, "12", " T ", "1.5", "x", n, n, ""],
        [1.0, 0.0, 1.9, -1.9, 1000.0, 1.0, 0.0, n, 12.0, n, 1.5, n, n, n, n],
        [1, 0, 1, -1, 1000, 1, 0, n, 12, n, n, n, n, n, n],
        [True, False, True, True, True, True, False, n, n, True, n, n, n, n, n],
    ]


def test_what_is_json_and_what_is_not() -> None:
    """The first level is read of a text that is JSON, and of no other text: a number is added to each object."""
    documents = list(DOCUMENTS)
    table = ibis.memtable(pa.table({"d": documents}))
    result = ibis.duckdb.connect().to_pyarrow(table.select(valid=json_valid(table.d)))
    assert dict(zip(documents, result["valid"].to_pylist(), strict=True)) == DOCUMENTS
    later = [text.replace('"a": ', '"b": 7, "a": ', 1) for text in documents if '"a": ' in text]
    (result,) = values(later, ["cast(json(d, '$.b') as int)"]).values()
    expected = [7 if valid else None for text, valid in DOCUMENTS.items() if '"a": ' in text]
    assert result == expected
    assert result.count(7) > 10
    assert result.count(None) > 10


def test_hard_documents_are_read_as_by_python() -> None:
    """But for what Python's parser alone accepts or refuses, and for depths beyond its recursion."""
    python_differs = ('"a": 1,}', "[1,]", "\\ud800", "NaN", "Infinity", "[[[[", '{"b": {"b"')
    documents = [text for text in DOCUMENTS if not any(part in text for part in python_differs)]
    assert len(documents) > 25
    assert not differences([*documents, None], {path: steps_of(path) for path in PATHS})


def test_a_document_of_100_000_levels_is_read_to_its_first_level() -> None:
    deep = next(text for text in DOCUMENTS if text.startswith('{"a": 1, "b": ['))
    assert values([deep], ["cast(json(d, '$.a') as int)", "json(d, '$.b') is null"]) == {
        "cast(json(d, '$.a') as int)": [1],
        "json(d, '$.b') is null": [True],
    }


@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.lists(json_texts() | st.none(), min_size=1, max_size=60))
def test_random_documents_are_read_as_by_python(documents: list[str | None]) -> None:
    python_differs = re.compile(r",\s*[]}]|NaN|Infinity|\\ud[89a-f]")
    documents = [text for text in documents if text is None or not python_differs.search(text)]
    assert not differences(documents, {path: steps_of(path) for path in PATHS})


@settings(deadline=None, max_examples=40)
@example(['"0"'])
@given(st.lists(st.text(min_size=1, max_size=5) | LETTERS.filter(bool), min_size=1, max_size=3))
def test_a_path_reads_the_field_of_any_name_that_it_can_write(names: list[str]) -> None:
    names = [name.encode("utf-8", "replace").decode() for name in names]
    path = plain_path(tuple(names))
    assert (path is None) == any(set('\0"\\*') & set(name) for name in names)
    if path is not None:
        document: Any = "it"
        for name in reversed(names):
            document = {name: document, f"{name}x": 1}
        (result,) = values([json.dumps(document)], [expressions_at(path)["string"]]).values()
        assert result == ["it"]


def test_json_within_json_and_in_other_expressions() -> None:
    documents = ['{"p": "{\\"q\\": 5}", "s": "x"}', '{"p": "no json"}', None]
    result = values(
        documents,
        [
            "cast(json(json(d, '$.p'), '$.q') as int) + 1",
            "json(d, '$.s') in ('x', 'y')",
            "json(replace(d, 'p', 's'), '$.s') is null",
            "coalesce(cast((json(d, '$.q')) as double), 0.5)",
        ],
    )
    assert list(result.values()) == [[6, None, None], [True, None, None], [False, False, True], [0.5, 0.5, 0.5]]


def test_fields_that_were_read_together_are_not_read_again() -> None:
    """The values are the same, and the query reads the columns of the fields, not the text."""
    texts = [text for path in PATHS for text in expressions_at(path).values()]
    duck = ibis.duckdb.connect()
    documents = ibis.memtable(pa.table({"d": list(DOCUMENTS)}))
    rows = duck.create_view("fields", with_fields(documents, {"d": PATHS}))
    names = {f"e{i}": parse(text, "t").build({"d": rows.d}) for i, text in enumerate(texts)}
    query = rows.select(**names)
    assert "JSON_" not in duck.compile(query)
    result = duck.to_pyarrow(query)
    expected = values(list(DOCUMENTS), texts)
    assert repr([result[f"e{i}"].to_pylist() for i in range(len(texts))]) == repr(list(expected.values()))


def test_an_expression_knows_its_json_texts() -> None:
    expression = parse("cast(json(json(d, '$.p'), '$.q') as int) + length(json(d, '$.s')) + e", "t")
    assert [text.text for text in expression.json_texts] == ["json(d, '$.p')", "d"]
    assert [text.columns for text in expression.json_texts] == [("d",), ("d",)]
    assert [text.is_column for text in expression.json_texts] == [False, True]
    assert set(expression.json_fields) == {("d", "$.p"), ("d", "$.s")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("json(d, 'a.b')", "does not begin with $; * Fix: write '$.a.b'"),
        (
            "json(d, '$.a[*].b')",
            "is not valid from character 4 on: `[[]*].b`; * Fix: name one field; *",
        ),
        ("json(d, '$.*')", "* from character 2 on: `.[*]`; * Fix: name one field; there are no wildcards"),
        ("json(d, '$.\"*\"')", "* Fix: name one field; there are no wildcards"),
        (
            "json(d, '$.a b')",
            "* from character 4 on: `b`; * Fix: correct the path; a name with blanks *",
        ),
        ("json(d, '$.a[-1]')", "* from character 4 on: `[[]-1]`; *"),
        ("json(d, '$..a')", "* from character 2 on: `..a`; *"),
    ],
)
def test_a_wrong_path_is_refused_when_the_expression_is_parsed(text: str, expected: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(text, "feed.toml: dense[0].value")
    assert fnmatchcase(str(refused.value), f"feed.toml: dense[[]0].value: the path `*` of `*` {expected}"), (
        refused.value
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("json(d)", "the function is json(text, '$.path')"),
        ("json(d, d)", "write it in single quotes"),
        ("json(5, '$.a')", "write cast(5 as string)"),
        ("json(d, '$.a') + 1", "write cast(json(d, '$.a') as double)"),
        ("d ->> '$.a'", "`->>` is not part of expressions. Fix: write json(text, '$.path')"),
        ("json_extract(d, '$.a')", "did you mean `json(text, '$.path')`?"),
        ("json(d, '$.a') = 5", "write '5', or cast(json(d, '$.a') as double)"),
    ],
)
def test_a_wrong_use_is_refused_with_a_fix(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        values(["{}"], [text])
