"""JSON texts for tests: hard ones, random ones, and the expressions that read their fields."""

from __future__ import annotations

import json

from hypothesis import strategies as st

TYPES = ("string", "double", "int", "boolean")
PATHS = ("$.a", "$.b.c", "$[0]", '$."odd name"', "$.b[1].c", "$")

# Texts on which parsers differ, and whether they are JSON here.
DOCUMENTS: dict[str, bool] = {
    '{"a": 1}': True,
    ' \t\r\n{"a": 1} ': True,
    '{"a": 1, "a": 2}': True,
    '{"\\u0061": "escaped key", "a": 2}': True,
    '{"a": NaN}': True,
    '{"a": -Infinity}': True,
    '{"a": 1,}': True,
    "[1,]": True,
    '{"a": "\\ud83d\\ude00 \\u00e9 \\n \\\\ \\""}': True,
    '{"a": "x\\u0000y"}': True,
    '{"a": 1e400}': True,
    '{"a": ' + "9" * 400 + "}": True,
    '{"a": -9223372036854775809}': True,
    '{"a": 18446744073709551616}': True,
    "12": True,
    '"text"': True,
    "null": True,
    '{"a": "1\\u0032"}': True,
    '{"a": "\\ttrue\\n"}': True,
    "[" * 100_000 + "]" * 100_000: True,
    '{"b": ' * 100_000 + "1" + "}" * 100_000: True,
    '{"a": 1, "b": ' + "[" * 100_000 + "]" * 100_000 + "}": True,
    "[" * 100_000: False,
    '{"a": 1} x': False,
    '{"a": 1}{"a": 2}': False,
    '/* c */ {"a": 1}': False,
    '{"a": 1} // c': False,
    '\ufeff{"a": 1}': False,
    '\u00a0{"a": 1}': False,
    '{"a": "\\ud800"}': False,
    '{"a": "x\ny"}': False,
    "{'a': 1}": False,
    "{a: 1}": False,
    '{"a": 01}': False,
    '{"a": +1}': False,
    '{"a": .5}': False,
    '{"a": 1.}': False,
    '{"a": True}': False,
    '{"a": "\\x"}': False,
    "": False,
    "  ": False,
}


def expressions_at(path: str) -> dict[str, str]:
    """Return an expression for each type that reads a field."""
    call = "json(d, '" + path.replace("'", "''") + "')"
    return {target: call if target == "string" else f"cast({call} as {target})" for target in TYPES}


LETTERS = st.text("aZ09 .,|*$\"'\\/#[]{}\n\u00e9\U0001f600", max_size=4)
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), LETTERS,
    st.sampled_from(["12", "-7.5", "true", " 0 ", "1e3", "\ttrue"]),
)  # fmt: skip
_names = st.sampled_from(["a", "b", "c", "odd name"]) | LETTERS.filter(bool)
_documents = st.recursive(
    _scalars, lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(_names, deeper, max_size=4), max_leaves=8
)


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    """A JSON text, sometimes with equal keys, escapes or a damaged character."""
    text = json.dumps(draw(_documents), ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        text = '{"a": ' + text + ', "b": {"c": 1}, "a": 2, "odd name": [1.5]}'
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from('x}]"{[:\\')) + text[at:]
    return text
