"""Tables as whole text, and names that do not fit."""

from __future__ import annotations

import pytest

from ple_rec.text import align_columns, cut_middle, printable, printable_lines


def test_cells_stand_in_columns() -> None:
    lines = [["table", "rows", "kernel"], ["user", "46,926,001", "fused"], ["tag", "601", ""]]
    assert align_columns(lines, left_columns=(0, 2)) == [
        "table        rows  kernel",
        "user   46,926,001  fused",
        "tag           601",
    ]


def test_a_wide_table_is_whole_whatever_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert align_columns([["a" * 60, "b" * 60], ["c", "d"]])[0] == f"{'a' * 60}  {'b' * 60}"


def test_a_cell_cannot_steer_a_terminal() -> None:
    assert align_columns([["name", "x"], ["a\x1b[2J\n", "1"]]) == ["name        x", r"a\x1b[2J\n  1"]


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("x" * 12, 12, "x" * 12),
        ("abcdefghijklm", 12, "abcde...jklm"),
        ("abcdefghijklmnop", 13, "abcde...lmnop"),
        ("abcdefghijklm", 3, "abcde...jklm"),  # never shorter
    ],
)
def test_the_middle_is_left_out(text: str, most: int, expected: str) -> None:
    assert cut_middle(text, most) == expected


def test_control_characters_are_escaped() -> None:
    assert printable("Z\xfcrich \N{GREEK SMALL LETTER ALPHA}") == "Z\xfcrich \N{GREEK SMALL LETTER ALPHA}"
    assert printable("\t\x00\u2028") == r"\t\x00\u2028"
    assert printable_lines("a\tb\nc\x1b") == "a\\tb\nc\\x1b"
