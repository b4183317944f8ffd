"""From text to a syntax tree: sqlglot reads it, once every word that is no keyword here is marked as a name.

SQL has hundreds of words with a meaning of their own (`comment`, `like`, `date`, `user`), and logs have columns of
such names. So the tokens are marked before sqlglot parses them: a word where a value may stand is a column, a word
before a bracket is a function of ours and of no dialect, and the few words of `KEYWORDS` remain what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, TokenError

from data_prep.expressions.source import Source, piece_of, shown

MAX_DEPTH = 100  # of the tree; the engines' own parsers recurse, and so do we
# Word: whether a value follows it, and so a word that may be a name.
KEYWORDS = dict.fromkeys(("and", "or", "not", "is", "in", "between", "case", "when", "then", "else"), True) | (
    dict.fromkeys(("end", "null", "true", "false"), False)
)
_SUBQUERY = "select"
_CASTS = ("cast", "try_cast")
_MATCHERS = ("like", "ilike", "rlike", "similar", "glob", "regexp")
_FUNCTION = "fn:"  # before the name of a function; no dialect knows such a name
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
# Node: what it is called, and what to write in its place.
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
    """The syntax tree of an expression, of allowed nodes only.

    Args:
        source: The text and its place.
        check_function: Called with the lower-case name of each function and where it stands; raises for unknown ones.

    Raises:
        UserError: The text is no expression of this language.
    """
    tokens = _tokens(source)
    _check_brackets(source, tokens)
    marked = list(_marked(source, tokens, check_function))
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
        value = f"{shown(source.text)} cannot be read to its end"
        raise source.error(
            value, "text stands in single quotes, odd names in double quotes", "close the quote"
        ) from None
    if not tokens:
        raise source.error("an empty text", "an expression gives one value a row", "write one, or leave the key out")
    for token in tokens:
        if token.token_type == TokenType.SEMICOLON:
            value = _here(source, token)
            raise source.error(value, "one expression gives one value", "leave the `;` out, and what follows it")
        if token.comments:  # `a --b`, of which SQL reads `a` alone
            value = f"{_here(source, token)} has a comment beside it"
            fix = "leave it out, or write it in the TOML behind a #; to subtract a negative, `a - -b`"
            raise source.error(value, "`--` and `/*` begin a comment, which expressions do not have", fix)
    return tokens


def _check_brackets(source: Source, tokens: list[Token]) -> None:
    opened: list[Token] = []
    for token in tokens:
        if token.token_type in (TokenType.L_BRACKET, TokenType.L_BRACE):
            fix = "of text use substr; of a list there is its length only"
            raise source.error(_here(source, token), "expressions have no square or curly brackets", fix)
        if token.token_type == TokenType.L_PAREN:
            opened.append(token)
        elif token.token_type == TokenType.R_PAREN:
            if not opened:
                value = _here(source, token)
                raise source.error(value, "each `)` closes a `(`", "leave it out, or open it before")
            opened.pop()
    if opened:
        value = source.at(opened[-1].start, opened[-1].end)
        raise source.error(value, "each `(` is closed by a `)`", "close it")


def _marked(source: Source, tokens: list[Token], check_function: Callable[[str, str], None]) -> Iterator[Token]:
    """The tokens with columns marked as names, and functions as such."""
    value_follows, previous = True, ""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        plain = source.text[token.start : token.end + 1] == token.text and _WORD.match(token.text)
        word = token.text.lower() if plain else ""
        opens = following is not None and following.token_type == TokenType.L_PAREN
        if previous == ".":
            if not word and token.token_type != TokenType.IDENTIFIER:
                raise _unread(source, token)
            value_follows, token = False, _retyped(token, TokenType.IDENTIFIER, token.text)
        elif word in KEYWORDS:
            value_follows = KEYWORDS[word]
        elif word and value_follows:
            if word == _SUBQUERY:
                fix = 'join the table in the configuration; a column of this name stands in double quotes: "select"'
                raise source.error(_here(source, token), "a subquery is no expression of one row", fix)
            if opens and word not in _CASTS:
                check_function(word, _here(source, token))
                token = _retyped(token, TokenType.VAR, _FUNCTION + word)
            elif not opens:
                token = _retyped(token, TokenType.IDENTIFIER, token.text)
            value_follows = False
        elif word in _MATCHERS and following is not None:
            raise source.error(_here(source, token), "expressions have no patterns", "use starts_with, contains or `=`")
        elif token.token_type == TokenType.IDENTIFIER and value_follows and opens:
            raise source.error(_here(source, token), "names of functions stand without quotes", "leave the quotes out")
        else:
            value_follows = not word and token.token_type not in _BEFORE_OPERATORS
        previous = token.text if token.token_type == TokenType.DOT else ""
        yield token


def _here(source: Source, token: Token) -> str:
    return source.at(token.start, token.end)


def _retyped(token: Token, kind: TokenType, text: str) -> Token:
    return Token(kind, text, token.line, token.col, token.start, token.end, token.comments)


def _restore(source: Source, node: exp.Expr) -> None:
    """Take the marks off, so that the tree prints as it was written."""
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
    return source.error(f"{shown(source.text)} is nested too deep", rule, fix)


def _token_at(error: ParseError, tokens: list[Token]) -> Token:
    """The token of sqlglot's error: the one that ends at its line and column."""
    found = error.errors[0] if error.errors else {}
    where = (found.get("line"), found.get("col"))
    return next((token for token in tokens if (token.line, token.col) == where), tokens[-1])


def _unread(source: Source, token: Token) -> Exception:
    fix = "a value, an operator or a comma is missing or too much there"
    if token.token_type == TokenType.VAR:
        fix += '; a name with a blank, or with a digit first, stands in double quotes: "odd name"'
    if token.text.lower() in KEYWORDS and token.token_type not in _QUOTED:
        fix += f'; a column of this name stands in double quotes: "{token.text}"'
    value = _here(source, token)
    return source.error(value, "it cannot be read as an expression from there on", fix)


def _check_node(source: Source, node: exp.Expr) -> None:
    if not isinstance(node, _ALLOWED):
        what, fix = _REFUSED.get(type(node), ("this", "see the list of what there is: ple-rec prep --help-config"))
        raise source.error(shown(piece_of(node)), f"{what} is not part of expressions", fix)
    if isinstance(node, exp.Column) and node.args.get("db"):
        raise source.error(shown(piece_of(node)), "a name is `column` or `table.column`", "drop the first part")
    if isinstance(node, exp.Cast) and (node.to.expressions or node.to.this not in TYPES):
        rule = "a cast makes int, bigint (both int64), float, double (both float64), string or boolean"
        raise source.error(f"{shown(piece_of(node))} casts to another type", rule, "name one of these")
    if isinstance(node, exp.In) and not node.expressions:
        raise source.error(shown(piece_of(node)), "`in` takes values in brackets", "write `x in (1, 2)`")
    if isinstance(node, exp.Is) and not isinstance(node.expression, exp.Null):
        raise source.error(shown(piece_of(node)), "`is` takes null or not null", "write `=`, or the condition alone")
