"""Fixes that messages about expressions propose: each is applied as it stands, until prep accepts the expression."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, ModuleType
from typing import Any

import ibis
import pyarrow as pa
import pytest
from sqlglot import exp

from data_prep.expressions import functions, parse, source, syntax
from data_prep.expressions.source import Source, node_text
from data_prep.expressions.syntax import parse_tree
from data_prep.transforms import arithmetic, features, side_tables
from ple_rec.errors import UserError
from tests.data_prep.test_fixes import COLUMNS, REST, ROUNDS, SPARSE, TASK, WRITE, Typed, fix_problem

# Expressions of a wrong type, each of which a message tells how to write.
EXPRESSIONS = [
    # null, conditions, and NaN of what is no float
    "abs(null)", "not null", "element(null, 1)", "contains(tags, null)", "days(null, seen)", "units(null, '1')",
    "number and flag", "ratio and flag", "word and flag", "signup and flag", "tags and flag", "if(seen, 1, 2)",
    # lists
    "tags + 1", "lower(tags)", "tags = 'a'", "'a' = tags", "tags < 'a'", "tags in ('a', 'b')", "days(tags, seen)",
    "if(flag, tags, word)", "if(flag, tags, 1)", "element(word, 1)", "element(tags, '1')", "element(tags, 1.0)",
    "contains(tags, number)", "contains(codes, word)", "contains(scores, word)", "contains(codes, flag)",
    "contains(tags, signup)", "contains(tags, tags)", "cast(tags as string)", "cast(tags as int)",
    # dates and times
    "signup + 1", "seen // 2", "lower(signup)", "lower(seen)", "lower(zoned)", "greatest(signup, 1)",
    "nullif(signup, '2024-01-01')", "units(signup, '1')", "days(number, seen)", "days(ratio, seen)", "seen > 3",
    "signup > 3", "signup > 3.5", "signup = flag", "coalesce(signup, seen)", "coalesce(signup, '2024-01-01')",
    "coalesce(seen, '2024-01-01')", "coalesce(seen, number)", "coalesce(signup, number)", "coalesce(seen, flag)",
    "cast(seen as string)", "cast(signup as int)", "cast(seen as double)", "timestamp(ratio, 'ms')",
    "timestamp(word, 'ms')", "hour(ratio)",
    # numbers, texts and booleans
    "units(ratio, '0.01')", "units(flag, '0.01')", "ratio || word", "price || word", "flag + 1", "word + 1",
    "clip(word, 0, 1)", "ratio // 2", "price // 2", "word % 2", "greatest(flag, 1)", "lower(number)", "nullif(tags, 1)",
    "word > 3", "word = number", "'a' = number", "flag = 'yes'", "flag = ratio", "coalesce(flag, 0)",
    "coalesce(number, flag)", "if(flag, ratio, word) = flag",
    "coalesce(word, 1.5)", "if(flag, word, ratio)", "cast(ratio as string)", "cast(ratio as boolean)",
    "cast(price as string)", "cast(price as boolean)", "cast(seen as boolean)",
]  # fmt: skip
# Texts that are refused, the end of the fix, and the text that follows it.
WRITTEN = {
    "if(flag, null, null)": ("cast(null as double)", "cast(null as double)"),
    "word = null": ("write `x is null` or `x is not null`", "word is null"),
    "flag < true": ("use `=` or `not`", "not flag"),
    "days(seen, '2024-5-1')": ("write it like '2024-05-01'", "days(seen, '2024-05-01')"),
    "timestamp(number, 'hour')": ("write 's', 'ms', 'us' or 'ns'", "timestamp(number, 'ns')"),
    "units(price, 0.01)": ("write '0.01', '1' or '100'", "units(price, '0.01')"),
    "split(word, number)": ("write it in single quotes", "split(word, 'number')"),
    "split(word, '')": ("write one letter or more", "split(word, ',')"),
    "substr(word, 0)": ("the first character is 1", "substr(word, 1)"),
    "substr(word, 1, 0)": ("leave it out to take all that follow", "substr(word, 1)"),
    "9223372036854775808": ("write it as a float: 1e19", "1e19"),
    "is_nan(number)": ("only floats can be NaN, and number is not a float", "false"),
    "json(word, 'a.b')": ("write '$.a.b'", "json(word, '$.a.b')"),
    "json(word, '')": ("write '$.name'", "json(word, '$.name')"),
    "json(word, '[0].a')": ("write '$[0].a'", "json(word, '$[0].a')"),
    "word -> '$.a'": ("write json(text, '$.path')", "json(word, '$.a')"),
    "word ->> '$.a'": ("write json(text, '$.path')", "json(word, '$.a')"),
    "tags[1]": ("element(list, i) for an item of a list", "element(tags, 1)"),
    "word[1]": ("write substr(text, start, length) for a part of a text, element(list, i) for an item of a list",
                "substr(word, 1, 1)"),
    "number in number": ("write `x in (1, 2)`", "number in (1, 2)"),
    "flag is true": ("write `=`, or the condition alone", "flag"),
    "word like 'a%'": ("use starts_with, contains or `=`", "starts_with(word, 'a')"),
    "number --1": ("to subtract a negative number, write `a - -b`", "number - -1"),
    "cast(word as date)": ("use one of these", "cast(word as string)"),
    '"lower"(word)': ("leave the quotes out", "lower(word)"),
    "number ** 2": ("multiply: `x * x`", "number * number"),
    "number <=> 1": ("write `(a = b or (a is null and b is null))`",
                     "(number = 1 or (number is null and 1 is null))"),
    "(number, 1)": ("write `x in (1, 2)`, or one value", "number in (1, 2)"),
    "min(number)": ("for values of one row write least(a, b)", "least(number, 1)"),
    "max(number)": ("for values of one row write greatest(a, b)", "greatest(number, 1)"),
    "sqrt(number)": ("compare without it (x * x < y), or compute such a value before, as a column of the log",
                     "number * number < 4"),
    "now()": ("write `time`, the time of the row: days(time, '2024-01-01')", "days(time, '2024-01-01')"),
    "coalesce(tags, codes)": ("write the items of both lists as text, or both as integers, into the log", "tags"),
    "days(flag, seen)": ("use a column of dates, of timestamps or of texts like 2024-05-01", "days(word, seen)"),
    "month(time.day)": ("write `time`, the time of the row", "month(time)"),
    "days(signup, time.day)": ("write `time`, the time of the row", "days(signup, time)"),
    "hour(price)": ("use a column of dates, of timestamps or of texts like 2024-05-01", "hour(word)"),
    "element(number, 1)": ("use a column of lists", "element(tags, 1)"),
}  # fmt: skip
# Columns in place of the names in what a message proposes for a function of SQL.
SYNONYM_NAMES = {"a": "number", "b": "number", "c": "flag", "x": "number", "text": "word", "separator": "','",
                 "start": "1", "length": "1", "list": "tags", "i": "1", "later": "seen", "earlier": "seen"}  # fmt: skip
SYNONYM_CALLS = {"length(x)": "length(tags)", "contains(list, x)": "contains(tags, 'a')", "is_nan(x)": "is_nan(ratio)",
                 "date(x)": "date(seen)", "weekday(x)": "weekday(seen)", "trim(text)": "trim(word)"}  # fmt: skip
# Keys and columns of a wrong type that lead to each fix of `transforms`.
KEY_COLUMNS = [
    *(("time.value", column) for column in ("seen", "signup", "word", "ratio", "flag")),
    *(("time.value of a date", column) for column in ("zoned", "ratio")),
    ("time.value of a timestamp", "word"),
    *(("sparse[0].value", column) for column in ("price", "serial", "ratio", "tags", "scores", "signup", "zoned")),
    *(("sparse[0].value of a bag", column) for column in ("word", "number", "ratio", "scores")),
    ("sparse[0].weights", "number"),
    *(("sides.user.on.number", column) for column in ("price", "signup", "word", "flag", "ratio")),
    *(("sides.user.on.word", column) for column in ("price", "signup", "seen", "flag", "ratio", "tags")),
    *(("sides.user.day", column) for column in ("zoned", "ratio")),
    *((key, column) for key in ("dense[0].value", "group") for column in ("signup", "seen", "tags", "word", "price")),
]
FIX_FUNCTIONS: dict[ModuleType, tuple[str, ...]] = {
    source: tuple(name for name in vars(source) if name.endswith("_fix")),
    arithmetic: ("_integer_fix", "_units", "date_to_day"),
    features: ("_id_type", "build_bag"),
    side_tables: ("key_value",),
}


def tree_of(text: str) -> exp.Expr:
    return parse_tree(Source(text, ""), lambda name, place: None)


def same_nodes(tree: exp.Expr, text: str) -> list[exp.Expr]:
    """Return the nodes of a tree that are written like a text; a text in quotes is written like its content."""
    return [node for node in tree.walk() if text in (node_text(node), f"'{node_text(node)}'")]


def leaves(tree: exp.Expr) -> set[str]:
    return {node_text(node) for node in tree.find_all(exp.Column, exp.Literal, exp.Null)}


def rewritten(text: str, message: str) -> str:
    """Return the expression after the change that a message proposes: of the piece that it quotes, or of an operand."""
    said, _, fix = message.rpartition("Fix: ")
    read = WRITE.match(fix)
    assert read is not None, message
    tree, new = tree_of(text), tree_of(read[1])
    old: exp.Expr
    pieces = [piece for piece in re.findall(r"`(.+?)`", said) if same_nodes(tree, piece)]
    if read[2]:
        (old,) = (call for call in tree.find_all(exp.Anonymous) if call.name == read[2])
    elif not pieces:
        return read[1]
    elif leaves(tree_of(pieces[0])) <= leaves(new) | {"NULL"} and pieces[0] != node_text(new):
        old = same_nodes(tree, pieces[0])[0]
    else:
        inner = (same_nodes(tree, node_text(node)) for node in new.walk(bfs=True))
        old = next(nodes[0] for nodes in inner if nodes)
    if old is tree:
        return read[1]
    old.replace(new)
    return node_text(tree)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    logs = Typed(tmp_path_factory.mktemp("typed"), pa.table(COLUMNS))
    yield logs
    logs.engine.close()


def refusal(typed: Typed, text: str) -> str | None:
    return typed.refusal((REST, SPARSE + TASK), {"carry.value": text})


def rounds(typed: Typed, text: str) -> list[str]:
    """Return the texts and messages from an expression to one that is accepted, or the first `ROUNDS` of them."""
    told: list[str] = []
    while (message := refusal(typed, text)) is not None:
        told += [text, message]
        if len(told) == 2 * ROUNDS + 2:
            return told
        text = rewritten(text, message)
    return [*told, text]


def name_problem(text: str, names: Mapping[str, Any]) -> str:
    with pytest.raises(UserError) as refused:
        parse(text, "t").build(names)
    return refused.value.fix


def run_expressions(typed: Typed) -> list[list[str]]:
    histories = [rounds(typed, text) for text in EXPRESSIONS]
    assert [history[0] for history in histories if len(history) == 1] == [], "accepted as it is"
    return [history for history in histories if len(history) % 2 == 0]


def run_names() -> None:
    table = ibis.table({"price": "float64", "odd name": "string", "word": "string", "key": "uint64"}, name="log")
    names = {name: table[name] for name in table.columns}
    for text, fix, corrected in [
        ("key + 1 > 2", "write the column as a number", "price + 1 > 2"),
        ("lower(key) = 'a'", "write the column as text or as an integer", "lower(word) = 'a'"),
        ("if(true, key, 1) > 1", "write the column as a number", "if(true, price, 1) > 1"),
        ("pric > 1", "did you mean `price`?", "price > 1"),
        ("odd_name = 'a'", 'did you mean `"odd name"`?', "\"odd name\" = 'a'"),
        ('word = "zzz"', "name one of them, or write 'zzz' if a text is meant", "word = 'zzz'"),
        ("zzz = 1", "name one of them", "price = 1"),
    ]:
        assert name_problem(text, names) == fix
        assert parse(corrected, "t").build(names).type().is_boolean()


def run_keys(typed: Typed) -> list[str]:
    return [problem for where, column in KEY_COLUMNS if (problem := fix_problem(typed, where, column))]


def test_what_messages_of_expressions_propose_is_accepted(typed: Typed) -> None:
    wrong = run_expressions(typed)
    assert not wrong, "\n".join("\n    ".join(history) for history in wrong)
    run_names()


def test_what_messages_of_keys_propose_is_accepted(typed: Typed) -> None:
    assert not run_keys(typed)


def test_the_forms_that_messages_name_are_accepted(typed: Typed) -> None:
    for text, (fix, corrected) in WRITTEN.items():
        message = refusal(typed, text)
        assert message is not None, text
        assert message.partition("Fix: ")[2].endswith(fix), message
        assert refusal(typed, corrected) is None, corrected


@pytest.mark.parametrize("form", sorted(set(functions._SQL_SYNONYMS.values())))
def test_the_form_that_stands_for_a_function_of_sql_is_accepted(form: str, typed: Typed) -> None:
    text = SYNONYM_CALLS.get(form) or re.sub(
        r"\b[a-z]+\b(?![('])", lambda word: SYNONYM_NAMES.get(word[0], word[0]), form
    )
    assert refusal(typed, text) is None, text


def test_every_refused_part_of_syntax_with_a_form_has_a_case() -> None:
    forms = [fix for _, fix in syntax._REFUSED.values()] + [fix for _, fix in functions.REFUSED.values()]
    written = [fix for fix, _ in WRITTEN.values()]
    # These name no form, but what to do to the log, or where the value is computed in its place.
    others = ("compute such a value before", "name one column", "declare the column", "use the keys", "join the table",
              "write `table.column`")  # fmt: skip
    assert not [fix for fix in forms if not fix.startswith(others) and fix not in written]


def fix_lines(module: ModuleType, names: tuple[str, ...]) -> dict[range, str]:
    """Return the statements of functions that give a fix: those that return, raise or assign one, by their lines."""
    tree = ast.parse(inspect.getsource(module))
    defined = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    assert {node.name for node in defined} == set(names)

    def gives_fix(node: ast.stmt, function: ast.FunctionDef) -> bool:
        is_assigned = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "fix"
        is_returned = isinstance(node, ast.Return) and ast.unparse(function.returns or node) == "str"
        return is_assigned or is_returned or isinstance(node, ast.Raise)

    return {
        range(node.lineno, (node.end_lineno or node.lineno) + 1): f"{function.name}: {ast.unparse(node)}"
        for function in defined
        for node in ast.walk(function)
        if isinstance(node, ast.stmt) and gives_fix(node, function)
    }


def lines_run(files: set[str], run: Callable[[], object]) -> set[tuple[str, int]]:
    """Return the files and lines that a function runs, of some files."""
    lines: set[tuple[str, int]] = set()

    def note(frame: FrameType, event: str, argument: object) -> Any:
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return note

    before = sys.gettrace()
    sys.settrace(lambda frame, event, argument: note if frame.f_code.co_filename in files else None)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines


def test_every_fix_has_a_case(typed: Typed) -> None:
    """A new branch of a function that gives fixes needs a case in the tables above."""

    def run_all() -> None:
        for text in WRITTEN:
            refusal(typed, text)
        run_expressions(typed)
        run_names()
        run_keys(typed)

    files = {str(inspect.getsourcefile(module)): module for module in FIX_FUNCTIONS}
    lines = lines_run(set(files), run_all)
    left_out = [
        statement
        for file, module in files.items()
        for numbers, statement in fix_lines(module, FIX_FUNCTIONS[module]).items()
        if not any((file, number) in lines for number in numbers)
    ]
    assert not left_out, "\n".join(left_out)
