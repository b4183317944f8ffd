"""Conversion of text to a syntax tree by sqlglot, in which words are marked as names before they are parsed.

SQL has hundreds of words with a meaning of their own (`comment`, `like`, `date`, `user`), and logs have columns of
such names. So the tokens are marked before sqlglot parses them. A word in the place of a value becomes a column, a
word before a bracket becomes a function of this language, and only the words of `KEYWORDS` keep their meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, TokenError

from data_prep.expressions.source import Source, in_backquotes, piece_of

MAX_DEPTH = 100  # Levels of the tree. The parsers of the engines and this module use recursion.
# Keywords, and whether a value follows. A word in the place of a value may be a name.
KEYWORDS = dict.fromkeys(("and", "or", "not", "is", "in", "between", "case", "when", "then", "else"), True) | (
    dict.fromkeys(("end", "null", "true", "false"), False)
)
_SUBQUERY = "select"
_CASTS = ("cast", "try_cast")
_MATCHERS = ("like", "ilike", "rlike", "similar", "glob", "regexp")
_FUNCTION = "fn:"  # Prefix of the names of functions. No dialect has a function of such a name.
_WORD = re.compile(r"[^\W\d]\w*\Z")
_QUOTED = (TokenType.STRING, TokenType.IDENTIFIER)
_BEFORE_OPERATORS = (TokenType.R_PAREN, TokenType.NUMBER, TokenType.DCOLON, *_QUOTED)

VALUES = (exp.Column, exp.Literal, exp.Boolean, exp.Null)
ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod)
COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)
CONDITIONS = (exp.And, exp.Or, exp.Not, exp.In, exp.Between, exp.Is)
CHOICES = (exp.Case, exp.If, exp.Cast, exp.TryCast, exp.Anonymous, exp.Paren, exp.Neg, exp.DPipe)
TYPES: dict[exp.DType, Literal["integer", "float", "string", "boolean"]] = {
    exp.DType.INT: "integer",
    exp.DType.BIGINT: "integer",
    exp.DType.FLOAT: "float",
    exp.DType.DOUBLE: "float",
    exp.DType.TEXT: "string",
    exp.DType.VARCHAR: "string",
    exp.DType.BOOLEAN: "boolean",
}
_ALLOWED = (*VALUES, *ARITHMETIC, *COMPARISONS, *CONDITIONS, *CHOICES, exp.Identifier, exp.DataType)
# Refused nodes: their names in messages, and the fix.
_REFUSED: dict[type[exp.Expr], tuple[str, str]] = {
    exp.Window: ("a window function", "prepare such a value before"),
    exp.Filter: ("an aggregate's filter", "prepare such a value before"),
    exp.Star: ("`*`", "name one column"),
    exp.Tuple: ("a list of values", "write `x in (1, 2)`, or one value"),
    exp.Pow: ("a power", "multiply: `x * x`"),
    exp.NullSafeEQ: ("a comparison that knows null", "write `(a = b or (a is null and b is null))`"),
    exp.NullSafeNEQ: ("a comparison that knows null", "write `not (a = b or (a is null and b is null))`"),
    exp.Dot: ("a name of this form", "write `table.column`, or `function(column)`"),
}


def quoted_name(name: str) -> str:
    """Return the name of a column as an expression reads it: `user_id`, `"user id"`, `"case"`."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in (*KEYWORDS, _SUBQUERY)
    return name if plain else '"' + name.replace('"', '""') + '"'


def tree_of(source: Source, check_function: Callable[[str, str], None]) -> exp.Expr:
    """Return the syntax tree of an expression, which has only allowed nodes.

    Args:
        source: Text of the expression and its place.
        check_function: Function that gets the name of each function in lower case and its place for messages. It
            raises for unknown functions.

    Raises:
        UserError: The text is no expression of this language.
    """
    tokens = _tokens(source)
    _check_brackets(source, tokens)
    marked = list(_mark(source, tokens, check_function))
    try:
        trees = Dialect.get_or_raise("duckdb").parser().parse_into(exp.Condition, marked, source.text)
        tree = trees[0] if trees else None
        if tree is None:
            raise _unread(source, tokens[-1])
        for node in list(tree.walk()):
            _restore(source, node)
        _check_depth(source, tree)
    except ParseError as error:
        raise _unread(source, _token_at(error, tokens)) from None
    except RecursionError:
        raise _too_deep(source) from None
    for node in tree.walk():
        _check_node(source, node)
    return tree


def _tokens(source: Source) -> list[Token]:
    try:
        tokens = list(Dialect.get_or_raise("duckdb").tokenize(source.text))
    except TokenError:
        value = f"{in_backquotes(source.text)} cannot be read to its end"
        raise source.error(
            value, "text stands in single quotes, odd names in double quotes", "close the quote"
        ) from None
    if not tokens:
        raise source.error("an empty text", "an expression gives one value a row", "write one, or leave the key out")
    for token in tokens:
        if token.token_type == TokenType.SEMICOLON:
            value = _place_of(source, token)
            raise source.error(value, "one expression gives one value", "leave the `;` out, and what follows it")
        if token.comments:  # SQL would read `a --b` as `a`.
            value = f"{_place_of(source, token)} has a comment beside it"
            fix = "leave it out, or write it in the TOML behind a #; to subtract a negative, `a - -b`"
            raise source.error(value, "`--` and `/*` begin a comment, which expressions do not have", fix)
    return tokens


def _check_brackets(source: Source, tokens: list[Token]) -> None:
    opened: list[Token] = []
    for token in tokens:
        if token.token_type in (TokenType.L_BRACKET, TokenType.L_BRACE):
            fix = "use substr for a text; for a list there is only its length"
            raise source.error(_place_of(source, token), "expressions have no square or curly brackets", fix)
        if token.token_type == TokenType.L_PAREN:
            opened.append(token)
        elif token.token_type == TokenType.R_PAREN:
            if not opened:
                value = _place_of(source, token)
                raise source.error(value, "each `)` closes a `(`", "leave it out, or open it before")
            opened.pop()
    if opened:
        value = source.at(opened[-1].start, opened[-1].end)
        raise source.error(value, "each `(` is closed by a `)`", "close it")


def _mark(source: Source, tokens: list[Token], check_function: Callable[[str, str], None]) -> Iterator[Token]:
    """Yield the tokens, with columns marked as names and functions as functions."""
    value_follows, previous = True, ""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        plain = source.text[token.start : token.end + 1] == token.text and _WORD.match(token.text)
        word = token.text.lower() if plain else ""
        opens = following is not None and following.token_type == TokenType.L_PAREN
        if previous == ".":
            if not word and token.token_type != TokenType.IDENTIFIER:
                raise _unread(source, token)
            value_follows, token = False, _with_type(token, TokenType.IDENTIFIER, token.text)
        elif word in KEYWORDS:
            value_follows = KEYWORDS[word]
        elif word and value_follows:
            if word == _SUBQUERY:
                fix = 'join the table in the configuration; a column of this name stands in double quotes: "select"'
                raise source.error(_place_of(source, token), "a subquery is no expression of one row", fix)
            if opens and word not in _CASTS:
                check_function(word, _place_of(source, token))
                token = _with_type(token, TokenType.VAR, _FUNCTION + word)
            elif not opens:
                token = _with_type(token, TokenType.IDENTIFIER, token.text)
            value_follows = False
        elif word in _MATCHERS and following is not None:
            raise source.error(
                _place_of(source, token), "expressions have no patterns", "use starts_with, contains or `=`"
            )
        elif token.token_type == TokenType.IDENTIFIER and value_follows and opens:
            raise source.error(
                _place_of(source, token), "names of functions stand without quotes", "leave the quotes out"
            )
        else:
            value_follows = not word and token.token_type not in _BEFORE_OPERATORS
        previous = token.text if token.token_type == TokenType.DOT else ""
        yield token


def _place_of(source: Source, token: Token) -> str:
    return source.at(token.start, token.end)


def _with_type(token: Token, kind: TokenType, text: str) -> Token:
    return Token(kind, text, token.line, token.col, token.start, token.end, token.comments)


def _restore(source: Source, node: exp.Expr) -> None:
    """Remove the marks from a node, so that the tree prints as it was written."""
    if isinstance(node, exp.Anonymous):
        node.set("this", node.name.removeprefix(_FUNCTION))
    elif isinstance(node, exp.Identifier) and "start" in node.meta:
        node.set("quoted", source.text[node.meta["start"]] == '"')


def _check_depth(source: Source, tree: exp.Expr) -> None:
    level, depth = [tree], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep(source)
        level = [child for node in level for child in node.iter_expressions()]


def _too_deep(source: Source) -> Exception:
    rule = f"an expression is at most {MAX_DEPTH} levels deep"
    fix = "write `x in (...)` for many comparisons, or prepare a part of it as a column"
    return source.error(f"{in_backquotes(source.text)} is nested too deep", rule, fix)


def _token_at(error: ParseError, tokens: list[Token]) -> Token:
    """Return the token of sqlglot's error, which ends at the line and column of the error."""
    details = error.errors[0] if error.errors else {}
    position = (details.get("line"), details.get("col"))
    return next((token for token in tokens if (token.line, token.col) == position), tokens[-1])


def _unread(source: Source, token: Token) -> Exception:
    fix = "a value, an operator or a comma is missing or too much there"
    if token.token_type == TokenType.VAR:
        fix += '; a name with a blank, or with a digit first, stands in double quotes: "odd name"'
    if token.text.lower() in KEYWORDS and token.token_type not in _QUOTED:
        fix += f'; a column of this name stands in double quotes: "{token.text}"'
    value = _place_of(source, token)
    return source.error(value, "it cannot be read as an expression from there on", fix)


def _check_node(source: Source, node: exp.Expr) -> None:
    if not isinstance(node, _ALLOWED):
        what, fix = _REFUSED.get(type(node), ("this", "see the list in ple-rec prep --help-config"))
        raise source.error(in_backquotes(piece_of(node)), f"{what} is not part of expressions", fix)
    if isinstance(node, exp.Column) and node.args.get("db"):
        raise source.error(in_backquotes(piece_of(node)), "a name is `column` or `table.column`", "drop the first part")
    if isinstance(node, exp.Cast) and (node.to.expressions or node.to.this not in TYPES):
        rule = "a cast makes int, bigint (both int64), float, double (both float64), string or boolean"
        raise source.error(f"{in_backquotes(piece_of(node))} casts to another type", rule, "name one of these")
    if isinstance(node, exp.In) and not node.expressions:
        raise source.error(in_backquotes(piece_of(node)), "`in` takes values in brackets", "write `x in (1, 2)`")
    if isinstance(node, exp.Is) and not isinstance(node.expression, exp.Null):
        raise source.error(
            in_backquotes(piece_of(node)), "`is` takes null or not null", "write `=`, or the condition alone"
        )
