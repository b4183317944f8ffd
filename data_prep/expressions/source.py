"""Where an expression stands, and how its errors name the piece that is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from ple_rec.errors import UserError

LONGEST_PIECE = 60  # characters of an expression that a message shows


def shown(piece: str) -> str:
    """A piece of an expression in one line, cut where it is long."""
    piece = " ".join(piece.split())
    return f"`{piece}`" if len(piece) <= LONGEST_PIECE else f"`{piece[: LONGEST_PIECE - 3]}...`"


def piece_of(node: exp.Expr) -> str:
    """A part of the syntax tree as text again."""
    return node.sql(dialect="duckdb", comments=False, normalize_functions=False)


@dataclass(frozen=True)
class Source:
    """The text of an expression and its place in a configuration."""

    text: str
    place: str

    def error(self, value: str, rule: str, fix: str) -> UserError:
        """The error about `value`, found in this expression."""
        return UserError(self.place, value, rule, fix)

    def at(self, start: int, end: int) -> str:
        """The whole text, and which of its characters (`end` included) are meant."""
        piece = self.text[start : end + 1]
        if piece == self.text.strip():
            return shown(piece)
        whole = self.text
        if len(whole) > LONGEST_PIECE:
            left, right = max(0, start - LONGEST_PIECE // 2), end + LONGEST_PIECE // 2
            whole = f"{'...' * (left > 0)}{whole[left:right]}{'...' * (right < len(whole))}"
        return f"`{' '.join(whole.split())}` at {shown(piece)} (character {start + 1})"
