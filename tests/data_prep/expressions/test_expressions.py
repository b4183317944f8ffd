from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ibis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.expressions import FUNCTIONS, OPERATORS, describe, parse
from data_prep.expressions.build import MAX_SIZE
from data_prep.expressions.functions import REFUSED
from data_prep.expressions.syntax import KEYWORDS, MAX_DEPTH
from ple_rec.errors import UserError

PLACE = "feed.toml: tasks[0].label"
TABLE = ibis.table(
    {
        "play_time_ms": "int32",
        "duration_ms": "int64",
        "ratio": "float32",
        "tag": "string",
        "is_click": "boolean",
        "is_hate": "int8",
        "tags": "array<string>",
        "ts": "timestamp",
        "key": "uint64",
        "price": "decimal(10, 2)",
        "odd name": "string",
    },
    name="log",
)
NAMES = {name: TABLE[name] for name in TABLE.columns} | {"users.age": TABLE.is_hate, "time.hour": TABLE.is_hate}


def words(text: str) -> list[str]:
    return text.split()


def build(text: str, names: Any = NAMES) -> Any:
    return parse(text, PLACE).build(names)


def message(text: str) -> str:
    """What is said of the text, without its place."""
    with pytest.raises(UserError) as refused:
        build(text)
    place, rest = str(refused.value).split(": ", 2)[:2], str(refused.value).removeprefix(f"{PLACE}: ")
    assert ": ".join(place) == PLACE
    return rest


def test_the_label_that_the_docs_recommend_leaves_a_missing_value_missing() -> None:
    docs = Path(__file__).resolve().parents[3] / "docs"
    table = ibis.memtable({"watch_seconds": [None, 30, 900]}, schema={"watch_seconds": "int64"})
    for page in ("prep.md", "ranking.md", "models.md"):
        (text,) = re.findall(r"`(\w+\(watch_seconds, [^`]*/ [^`]*)`", (docs / page).read_text())
        value = build(text, {"watch_seconds": table.watch_seconds})
        assert ibis.duckdb.connect().to_pyarrow(value).to_pylist() == [None, 0.05, 1.0], page


def test_split_of_a_list_is_the_list_so_that_one_toml_reads_parquet_and_csv() -> None:
    assert build("split(tags, '|')").type() == build("split(tag, '|')").type()


def test_an_expression_knows_its_text_and_the_names_that_it_reads_in_order() -> None:
    text = "case when users.age > 3 and b then \"odd name\" else coalesce(a, 'c') || b || users.age end"
    expression = parse(text, PLACE)
    assert expression.text == text
    assert expression.place == PLACE
    assert expression.columns == ("users.age", "b", "odd name", "a")
    assert parse("1 + 2", PLACE).columns == ()
    assert expression == parse(text, PLACE)


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("play_time_ms", "int64"),
        ("ratio", "float64"),
        ("play_time_ms + is_hate", "int64"),
        ("play_time_ms / is_hate", "float64"),
        ("play_time_ms // 7 % 3", "int64"),
        ("-ratio * 2", "float64"),
        ("clip(play_time_ms / duration_ms, 0, 1)", "float64"),
        ("clip(play_time_ms, 0, 1)", "int64"),
        ("round(ratio)", "int64"),
        ("is_click = 1 and not is_hate = 1", "boolean"),
        ("users.age in (1, 2.5)", "boolean"),
        ("split(tag, ',')", "array<string>"),
        ("length(tags)", "int64"),
        ("case when is_click then 1 when true then 2.5 else null end", "float64"),
        ("if(is_click, tag, null)", "string"),
        ("cast(tag as float)", "float64"),
        ("cast(null as boolean)", "boolean"),
        ("tag::int", "int64"),
        ("ts", "timestamp"),
        ("coalesce(ts, null)", "timestamp"),
        ("key", "uint64"),
        ("tags", "array<string>"),
    ],
)
def test_a_value_has_one_of_few_types(text: str, dtype: str) -> None:
    assert build(text).type() == ibis.dtype(dtype)


SQL_WORDS = words(
    "all any asc by column comment current_date date day desc distinct exists first format from group having "
    "hour index interval join key label left like limit month next offset on order over partition position rank "
    "right row rows share similar table time timestamp top type union user using value values where window with "
    "year if cast clip"
)


@pytest.mark.parametrize("word", SQL_WORDS)
def test_words_with_a_meaning_in_sql_are_names_of_columns(word: str) -> None:
    text = f"{word} > 0 and ({word} + t.{word}) % 2 = -{word} or {word.upper()} is null"
    assert parse(text, PLACE).columns == (word, f"t.{word}", word.upper())
    names = {name: TABLE.play_time_ms for name in (word, f"t.{word}", word.upper())}
    assert build(text, names).type().is_boolean()


@pytest.mark.parametrize("word", [*KEYWORDS, "select"])
def test_a_keyword_is_a_name_in_double_quotes_and_behind_a_dot(word: str) -> None:
    assert parse(f'"{word}" + t.{word}', PLACE).columns == (word, f"t.{word}")


def test_names_and_texts_hold_any_letter() -> None:
    assert parse('"a.b c""d" = \'it\'\'s; -- "x" (\' or \u65e5\u671f > 1', PLACE).columns == (
        '"a.b c""d"',
        "\u65e5\u671f",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "",
            "the text is empty; an expression gives one value per row. Fix: write an expression, or leave the key out",
        ),
        (
            "tag = 'abc",
            "`tag = 'abc` has a quote that is not closed; a text stands in single quotes, an unusual name in "
            "double quotes. Fix: close the quote",
        ),
        (
            "clip(ratio, 0 1)",
            "`clip(ratio, 0 1)` at `1` (character 15); the text is not a valid expression from there on. "
            "Fix: add or remove a value, an operator or a comma there",
        ),
        (
            "is_click and",
            "`is_click and` at `and` (character 10); the text is not a valid expression from there on. Fix: add or "
            'remove a value, an operator or a comma there; a column of this name stands in double quotes: "and"',
        ),
        ("abs(ratio", "`abs(ratio` at `(` (character 4); each `(` is closed by a `)`. Fix: add the `)`"),
        ("ratio)", "`ratio)` at `)` (character 6); each `)` closes a `(`. Fix: leave it out, or add the `(`"),
        (
            "ratio; tag",
            "`ratio; tag` at `;` (character 6); a text is one expression. "
            "Fix: leave out the `;` and what follows it",
        ),
        (
            "tag in (select x from y)",
            "`tag in (select x from y)` at `select` (character 9); an expression has no subqueries. Fix: join "
            'the table in the configuration; a column of this name stands in double quotes: "select"',
        ),
        (
            "tag like 'a%'",
            "`tag like 'a%'` at `like` (character 5); expressions have no patterns. "
            "Fix: use starts_with, contains or `=`",
        ),
        (
            "abs(ratio) over (order by ts)",
            "`abs(ratio) OVER (ORDER BY ts)`; a window function is not part of expressions. "
            "Fix: compute such a value before, as a column of the log",
        ),
        ("ratio ** 2", "`POWER(ratio, 2)`; a power is not part of expressions. Fix: multiply: `x * x`"),
        (
            "tags[1]",
            "`tags[1]` at `[` (character 5); expressions have no square or curly brackets. "
            "Fix: write substr(text, start, length) for a part of a text, element(list, i) for an item of a list",
        ),
        (
            "is_hate & 1",
            "`is_hate & 1`; this is not part of expressions. "
            "Fix: see the list in ple-rec prep --help-config",
        ),
        (
            "a --b",
            "`a --b` at `a` (character 1) has a comment beside it; `--` and `/*` begin a comment, which expressions do "
            "not have. Fix: leave it out, or write it as a comment of TOML, after #; to subtract a negative number, "
            "write `a - -b`",
        ),
        ("a.b.c", "`a.b.c`; a name is `column` or `table.column`. Fix: drop the first part"),
        (
            "tag .. 5",
            "`tag .. 5` at `.` (character 6); the text is not a valid expression from there on. "
            "Fix: add or remove a value, an operator or a comma there",
        ),
        ("tag in tags", "`tag IN tags`; `in` takes values in brackets. Fix: write `x in (1, 2)`"),
        ("is_click is true", "`is_click IS TRUE`; `is` takes null or not null. Fix: write `=`, or the condition alone"),
        (
            "cast(tag as date)",
            "`CAST(tag AS DATE)` casts to another type; a cast makes int, bigint (both int64), float, double (both "
            "float64), string or boolean. Fix: use one of these",
        ),
        ('"abs"(ratio)', '`"abs"(ratio)` at `"abs"` (character 1); names of functions stand without quotes. '
         "Fix: leave the quotes out"),
        (
            "9223372036854775808",
            "`9223372036854775808` is too large; integers are int64, from -2^63 to 2^63 - 1. "
            "Fix: write it as a float: 1e19",
        ),
        ("1e999", "`1e999` is too large; floats are float64, up to 1.8e308. Fix: write a smaller one"),
        ("'\0'", r"`'\x00'` holds a zero byte; engines end a text at a zero byte. Fix: leave it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_shown_with_its_place(text: str, said: str) -> None:
    assert message(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "log(ratio)",
            "`log(ratio)` at `log` (character 1); there is no log in expressions: its last bits differ between engines "
            "and machines. Fix: declare the column as dense with the normaliser `log`: the model applies it",
        ),
        (
            "1 + sum(ratio)",
            "`1 + sum(ratio)` at `sum` (character 5); there is no sum in expressions: an expression is computed "
            "from one row, and this function needs several. Fix: compute such a value before, as a column of the log",
        ),
        (
            "array_contains(tags, 'a')",
            "`array_contains(tags, 'a')` at `array_contains` (character 1); there is no function 'array_contains'; "
            f"there are {', '.join(FUNCTIONS)}. Fix: did you mean `contains(list, x)`?",
        ),
        (
            "now() > ts",
            "`now() > ts` at `now` (character 1); there is no now in expressions: it does not depend on the row "
            "alone, so the next run would give other values. Fix: write `time`, the time of the row: "
            "days(time, '2024-01-01')",
        ),
        (
            "clipp(ratio, 0, 1)",
            "`clipp(ratio, 0, 1)` at `clipp` (character 1); there is no function 'clipp'; there are "
            f"{', '.join(FUNCTIONS)}. Fix: did you mean `clip`?",
        ),
        (
            "ISNAN(ratio)",
            "`ISNAN(ratio)` at `ISNAN` (character 1); there is no function 'isnan'; there are "
            f"{', '.join(FUNCTIONS)}. Fix: did you mean `is_nan(x)`?",
        ),
        (
            "xyz(ratio)",
            "`xyz(ratio)` at `xyz` (character 1); there is no function 'xyz'; there are "
            f"{', '.join(FUNCTIONS)}. Fix: use one of these",
        ),
        (
            "clip(ratio, 0)",
            "`clip(ratio, 0)` has 2 arguments; the function is clip(x, low, high): x, but at least low and at most "
            "high; null and NaN remain; a null bound has no effect. Fix: call it like this",
        ),
        (
            "substr(tag, 0)",
            "`0` is not such a number; `substr(tag, 0)` takes a number from 1 there. Fix: the first character is 1",
        ),
        (
            "substr(tag, 4, 0)",
            "`0` is not such a number; `substr(tag, 4, 0)` takes a number of characters from 1 there. "
            "Fix: write how many to take, or leave it out to take all that follow",
        ),
        (
            "split(tag, '')",
            "`''` is not such a text; `split(tag, '')` takes a text of one letter or more in single quotes there. "
            "Fix: write one letter or more",
        ),
    ],
)
def test_functions_that_are_not_there_are_refused_with_the_reason(text: str, said: str) -> None:
    assert message(text) == said


THERE = (
    "there are play_time_ms, duration_ms, ratio, tag, is_click, is_hate, tags, ts, key, price, odd name, users.age "
    "and 1 more"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plai_time_ms > 3", f"no column `plai_time_ms`; {THERE}. Fix: did you mean `play_time_ms`?"),
        ("Tag = 'x'", f"no column `Tag`; {THERE}. Fix: did you mean `tag`?"),
        ("user.age > 3", f"no column `user.age`; {THERE}. Fix: did you mean `users.age`?"),
        ("odd_name = 'x'", f'no column `odd_name`; {THERE}. Fix: did you mean `"odd name"`?'),
        ("zzz", f"no column `zzz`; {THERE}. Fix: name one of them"),
        ('tag = "male"', f"no column `male`; {THERE}. Fix: name one of them, or write 'male' if a text is meant"),
    ],
)
def test_unknown_names_list_what_there_is(text: str, said: str) -> None:
    assert message(text) == said


WRONG_KINDS = [
        ("tag > 3", "`tag > 3` compares a string with an integer; both sides must be of one kind. "
         "Fix: write '3', or cast(tag as double)"),
        ("tag = is_hate", "`tag = is_hate` compares a string with an integer; both sides must be of one kind. "
         "Fix: write cast(is_hate as string)"),
        ("is_click = 'yes'", "`is_click = 'yes'` compares a boolean with a string; both sides must be of one kind. "
         "Fix: write cast(is_click as string)"),
        ("is_click < true", "`is_click < TRUE` orders booleans; booleans are only equal or not equal. "
         "Fix: use `=` or `not`"),
        ("tag = null", "`tag = NULL` compares with null; a comparison with null is never true. "
         "Fix: write `x is null` or `x is not null`"),
        ("ts > 3", "`ts > 3` compares a time with an integer; both sides must be of one kind. "
         "Fix: write timestamp(3, 'ms'), with the unit of the number: 's', 'ms', 'us' or 'ns'"),
        ("tags = 'a'", "`tags = 'a'` compares a list; numbers, strings, booleans, dates and times can be compared. "
         "Fix: write contains(tags, 'a')"),
        ("lower(tags)", "`tags` is a list; `lower(tags)` takes a string there. "
         "Fix: write element(tags, 1), its first item"),
        ("clip(tag, 0, 1)", "`tag` is a string; `clip(tag, 0, 1)` takes a number there. "
         "Fix: write cast(tag as double)"),
        ("is_click + 1", "`is_click` is a boolean; `is_click + 1` takes a number there. "
         "Fix: write cast(is_click as int)"),
        ("ratio // 2", "`ratio` is a float; `ratio // 2` takes an integer there. Fix: write cast(ratio as int)"),
        ("ratio || tag", "`ratio` is a float; `ratio || tag` takes a string, integer or boolean there. "
         "Fix: write cast(round(ratio) as string)"),
        ("abs(null)", "`NULL` is null; `abs(NULL)` takes a number there. Fix: write cast(null as double), or the "
         "expression without it"),
        ("abs(tags)", "`tags` is a list; `abs(tags)` takes a number there. "
         "Fix: write length(tags), the number of its items"),
        ("greatest(is_click, 1)", "`is_click` is a boolean; `greatest(is_click, 1)` takes a number or string there. "
         "Fix: write cast(is_click as int)"),
        ("is_nan(is_hate)", "`is_hate` is an integer; `is_nan(is_hate)` takes a float there. "
         "Fix: leave it out: only floats can be NaN, and is_hate is not a float"),
        ("is_click and not is_hate", "`is_hate` is an integer; `NOT is_hate` takes a condition there. "
         "Fix: compare it: is_hate = 1"),
        ("if(tag, 1, 2)", "`tag` is a string; `if(tag, 1, 2)` takes a condition there. Fix: compare it: tag = 'text'"),
        ("case when ratio then 1 end", "`ratio` is a float; `CASE WHEN ratio THEN 1 END` takes a condition there. "
         "Fix: compare it: ratio > 0"),
        ("coalesce(is_click, 0)", "`coalesce(is_click, 0)` mixes a boolean with an integer; its values must be of one "
         "kind (integers with floats become floats). Fix: write cast(is_click as int)"),
        ("if(is_click, tag, tags)", "`if(is_click, tag, tags)` mixes a string with a list; its values must be of one "
         "kind (integers with floats become floats). Fix: write element(tags, 1), its first item"),
        ("cast(ratio as string)", "`ratio` is a float; there is no cast of it to string on which the engines agree. "
         "Fix: write cast(round(ratio) as string)"),
        ("cast(ratio as boolean)", "`ratio` is a float; there is no cast of it to boolean on which the engines agree. "
         "Fix: compare it: ratio <> 0"),
        ("cast(ts as int)", "`ts` is a time; there is no cast of it to integer on which the engines agree. "
         "Fix: write days(ts, '1970-01-01'), or for an age days(time, ts)"),
        ("cast(ts as string)", "`ts` is a time; there is no cast of it to string on which the engines "
         "agree. Fix: write cast(date(ts) as string)"),
        ("if(is_click, null, null)", "`if(is_click, NULL, NULL)` is null in every row; an expression must have a type. "
         "Fix: write cast(null as double)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG_KINDS)
def test_values_of_a_wrong_kind_are_refused_with_what_to_write(text: str, said: str) -> None:
    assert message(text) == said


def test_long_texts_are_cut_in_messages() -> None:
    text = f"tag in ({', '.join(map(repr, words('long ' * 99)))}, 7 8)"
    start = text.index("8)")
    assert message(text).startswith(f"`...g', 'long', 'long', 'long', 7 8)` at `8` (character {start + 1});")
    assert message(f"no_such_column_of_the_log{'_x' * 40}").startswith(
        f"no column `no_such_column_of_the_log{'_x' * 16}...`;"
    )


@pytest.mark.parametrize(
    "text", ["(" * 3000 + "1" + ")" * 3000, "abs(" * 300 + "1" + ")" * 300, "1" + " + 1" * 3000, "- " * 3000 + "1"]
)
def test_what_is_too_deep_for_an_engine_is_refused(text: str) -> None:
    rule = f"an expression has at most {MAX_DEPTH} levels"
    fix = "write `x in (...)` for many comparisons, or prepare a part of it as a column"
    assert message(text).endswith(f"is nested too deeply; {rule}. Fix: {fix}")


def test_what_grows_too_large_for_an_engine_is_refused() -> None:
    text = "clip(" * 12 + "ratio" + ", 0, 1)" * 12
    rule = f"in SQL it may have at most {MAX_SIZE:,} nodes, and clip, // and % repeat their arguments there"
    assert message(text) == (
        "`clip(clip(clip(clip(clip(clip(clip(clip(clip(clip(clip(cl...` is too large; "
        f"{rule}. Fix: prepare a part of it as a column"
    )


def test_the_description_lists_every_form_once_and_what_it_lists_is_there() -> None:
    lines = describe().splitlines()
    assert len(lines) == len(FUNCTIONS) + len(OPERATORS)
    for line, (name, function) in zip(lines[len(OPERATORS) :], FUNCTIONS.items(), strict=True):
        assert line.startswith(f"{function.signature} ")
        assert function.signature.startswith(f"{name}(")
        assert line.endswith(function.meaning)
    assert not set(FUNCTIONS) & set(REFUSED)


PIECES = words(
    "select from case when then else end and or not in is null between cast as int like over ( ) [ ] { } , ; . .. + - "
    "* / // % || | & ^ ~ = == <> != < > <= >= :: : -> => ? $1 @ # ! \\ ' \" '' a tag ratio is_click 1 0.5 1e 'x' \"y\" "
    "clip( abs( if( split( exists( sum( -- /* */ e'x' x'00' $$ interval date '2020-01-01' distinct filter within by"
)


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join) | st.text(max_size=30))
def test_whatever_the_text_there_is_a_value_or_a_message(text: str) -> None:
    try:
        value = build(text)
    except UserError:
        return
    assert ibis.to_sql(TABLE.select(value=value), dialect="duckdb")


@pytest.mark.slow
def test_parsing_imports_no_engine(repository: Path) -> None:
    code = "import sys, data_prep.expressions as e; e.parse('a > 1', ''); assert 'pyspark' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


NULLS = words("abs(null) length(null) concat(tag,null) contains(null,tag) replace(tag,'a',null) split(null,',') -null")
NULLS += ["is_nan(null)", "not null", "is_click and null", "if(null, 1, 2)", "1 + null", "null % 2", "tag || null"]


@pytest.mark.parametrize("text", NULLS)
def test_the_null_that_a_message_proposes_in_place_of_a_bare_one_is_accepted(text: str) -> None:
    (null,) = re.findall(r"Fix: write (cast\(null as \w+\)), or the expression without it", message(text))
    assert build(text.replace("null", null)) is not None


def test_a_word_that_cannot_be_read_tells_of_double_quotes() -> None:
    for text in ("2nd_item", "item id", "odd name = 1"):
        assert message(text).endswith(
            '; a name with a blank, or that begins with a digit, stands in double quotes: "odd name"'
        )
