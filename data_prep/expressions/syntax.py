"""Parsing of expressions by sqlglot, with all words but a few keywords taken for names of columns or functions.

SQL has hundreds of words with a meaning of their own (`comment`, `like`, `date`, `user`), and logs have columns with
such names. So tokens are marked before sqlglot parses them: a word where a value is expected becomes the name of a
column, a word before a bracket becomes a function, and only the words of `KEYWORDS` keep their meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, TokenError

from data_prep.expressions.source import Source, in_backquotes, node_text

MAX_DEPTH = 100  # Levels of the syntax tree, since this module and the parsers of the engines use recursion.
# Keywords, and whether a value follows them. A word where a value is expected may be a name.
KEYWORDS = dict.fromkeys(("and", "or", "not", "is", "in", "between", "case", "when", "then", "else"), True) | (
    dict.fromkeys(("end", "null", "true", "false"), False)
)
_SUBQUERY = "select"
_CASTS = ("cast", "try_cast")
_PATTERN_OPERATORS = ("like", "ilike", "rlike", "similar", "glob", "regexp")
_FUNCTION = "fn:"  # Mark before the name of a function, with which it is no function of any SQL dialect.
_WORD = re.compile(r"[^\W\d]\w*\Z")
_QUOTED = (TokenType.STRING, TokenType.IDENTIFIER)
# An operator, not a value, follows these tokens.
_BEFORE_OPERATORS = (TokenType.R_PAREN, TokenType.NUMBER, TokenType.DCOLON, *_QUOTED)

# Nodes of sqlglot's syntax tree that expressions may have.
VALUES = (exp.Column, exp.Literal, exp.Boolean, exp.Null)
ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod)
COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)
CONDITIONS = (exp.And, exp.Or, exp.Not, exp.In, exp.Between, exp.Is)
OTHER_NODES = (exp.Case, exp.If, exp.Cast, exp.TryCast, exp.Anonymous, exp.Paren, exp.Neg, exp.DPipe)
# Kind of the values of each type that a cast may name.
TYPES: dict[exp.DType, Literal["integer", "float", "string", "boolean"]] = {
    exp.DType.INT: "integer",
    exp.DType.BIGINT: "integer",
    exp.DType.FLOAT: "float",
    exp.DType.DOUBLE: "float",
    exp.DType.TEXT: "string",
    exp.DType.VARCHAR: "string",
    exp.DType.BOOLEAN: "boolean",
}
_ALLOWED = (*VALUES, *ARITHMETIC, *COMPARISONS, *CONDITIONS, *OTHER_NODES, exp.Identifier, exp.DataType)
# Name in messages, and fix, of nodes that are refused.
_REFUSED: dict[type[exp.Expr], tuple[str, str]] = {
    exp.Window: ("a window function", "compute such a value before, as a column of the log"),
    exp.Filter: ("an aggregate's filter", "compute such a value before, as a column of the log"),
    exp.Star: ("`*`", "name one column"),
    exp.Tuple: ("a list of values", "write `x in (1, 2)`, or one value"),
    exp.Pow: ("a power", "multiply: `x * x`"),
    exp.NullSafeEQ: ("a comparison that treats null as a value", "write `(a = b or (a is null and b is null))`"),
    exp.JSONExtract: ("`->`", "write json(text, '$.path')"),
    exp.JSONExtractScalar: ("`->>`", "write json(text, '$.path')"),
    exp.Dot: ("a name of this form", "write `table.column`, or `function(column)`"),
}


def quoted_name(name: str) -> str:
    """Return the name of a column as an expression has to spell it: `user_id`, `"user id"`, `"case"`."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in (*KEYWORDS, _SUBQUERY)
    return name if plain else '"' + name.replace('"', '""') + '"'


def parse_tree(source: Source, check_function: Callable[[str, str], None]) -> exp.Expr:
    """Parse an expression, and refuse all parts of SQL that are not allowed.

    Args:
        source: Text of the expression and its place.
        check_function: Check that gets the name of each function in lower case, and its place for messages, and raises
            for an unknown function.

    Raises:
        UserError: The text is not a valid expression.
    """
    tokens = _tokenize(source)
    _check_brackets(source, tokens)
    marked = list(_mark_names(source, tokens, check_function))
    try:
        trees = Dialect.get_or_raise("duckdb").parser().parse_into(exp.Condition, marked, source.text)
        tree = trees[0] if trees else None
        if tree is None:
            raise _syntax_error(source, tokens[-1])
        for node in list(tree.walk()):
            _remove_marks(source, node)
        _check_depth(source, tree)
    except ParseError as error:
        raise _syntax_error(source, _error_token(error, tokens)) from None
    except RecursionError:
        raise _depth_error(source) from None
    for node in tree.walk():
        _check_node(source, node)
    return tree


def _tokenize(source: Source) -> list[Token]:
    try:
        tokens = list(Dialect.get_or_raise("duckdb").tokenize(source.text))
    except TokenError:
        value = f"{in_backquotes(source.text)} has a quote that is not closed"
        raise source.error(
            value, "a text stands in single quotes, an unusual name in double quotes", "close the quote"
        ) from None
    if not tokens:
        raise source.error(
            "the text is empty", "an expression gives one value per row", "write an expression, or leave the key out"
        )
    for token in tokens:
        if token.token_type == TokenType.SEMICOLON:
            value = _quote_token(source, token)
            raise source.error(value, "a text is one expression", "leave out the `;` and what follows it")
        if token.comments:  # SQL would read `a --b` as `a`.
            value = f"{_quote_token(source, token)} has a comment beside it"
            fix = (
                "leave it out, or write it as a comment of TOML, after #; to subtract a negative number, write `a - -b`"
            )
            raise source.error(value, "`--` and `/*` begin a comment, which expressions do not have", fix)
    return tokens


def _check_brackets(source: Source, tokens: list[Token]) -> None:
    opened: list[Token] = []
    for token in tokens:
        if token.token_type in (TokenType.L_BRACKET, TokenType.L_BRACE):
            fix = "write substr(text, start, length) for a part of a text, element(list, i) for an item of a list"
            raise source.error(_quote_token(source, token), "expressions have no square or curly brackets", fix)
        if token.token_type == TokenType.L_PAREN:
            opened.append(token)
        elif token.token_type == TokenType.R_PAREN:
            if not opened:
                value = _quote_token(source, token)
                raise source.error(value, "each `)` closes a `(`", "leave it out, or add the `(`")
            opened.pop()
    if opened:
        value = source.quote_piece(opened[-1].start, opened[-1].end)
        raise source.error(value, "each `(` is closed by a `)`", "add the `)`")


def _mark_names(source: Source, tokens: list[Token], check_function: Callable[[str, str], None]) -> Iterator[Token]:
    """Yield the tokens, with names of columns as identifiers, and the mark `_FUNCTION` before names of functions."""
    value_follows, previous = True, ""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        plain = source.text[token.start : token.end + 1] == token.text and _WORD.match(token.text)
        word = token.text.lower() if plain else ""
        is_call = following is not None and following.token_type == TokenType.L_PAREN
        if previous == ".":  # Any word after a dot is a name, also a keyword: `users.case`.
            if not word and token.token_type != TokenType.IDENTIFIER:
                raise _syntax_error(source, token)
            value_follows, token = False, _with_type(token, TokenType.IDENTIFIER, token.text)
        elif word in KEYWORDS:
            value_follows = KEYWORDS[word]
        elif word and value_follows:
            if word == _SUBQUERY:
                fix = 'join the table in the configuration; a column of this name stands in double quotes: "select"'
                raise source.error(_quote_token(source, token), "an expression has no subqueries", fix)
            if is_call and word not in _CASTS:
                check_function(word, _quote_token(source, token))
                token = _with_type(token, TokenType.VAR, _FUNCTION + word)
            elif not is_call:
                token = _with_type(token, TokenType.IDENTIFIER, token.text)
            value_follows = False
        elif word in _PATTERN_OPERATORS and following is not None:
            raise source.error(
                _quote_token(source, token), "expressions have no patterns", "use starts_with, contains or `=`"
            )
        elif token.token_type == TokenType.IDENTIFIER and value_follows and is_call:
            raise source.error(
                _quote_token(source, token), "names of functions stand without quotes", "leave the quotes out"
            )
        else:
            value_follows = not word and token.token_type not in _BEFORE_OPERATORS
        previous = token.text if token.token_type == TokenType.DOT else ""
        yield token


def _quote_token(source: Source, token: Token) -> str:
    return source.quote_piece(token.start, token.end)


def _with_type(token: Token, kind: TokenType, text: str) -> Token:
    return Token(kind, text, token.line, token.col, token.start, token.end, token.comments)


def _remove_marks(source: Source, node: exp.Expr) -> None:
    """Remove the marks from a node, so that its text is printed as the user wrote it."""
    if isinstance(node, exp.Anonymous):
        node.set("this", node.name.removeprefix(_FUNCTION))
    elif isinstance(node, exp.Identifier) and "start" in node.meta:
        node.set("quoted", source.text[node.meta["start"]] == '"')


def _check_depth(source: Source, tree: exp.Expr) -> None:
    level, depth = [tree], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _depth_error(source)
        level = [child for node in level for child in node.iter_expressions()]


def _depth_error(source: Source) -> Exception:
    rule = f"an expression has at most {MAX_DEPTH} levels"
    fix = "write `x in (...)` for many comparisons, or prepare a part of it as a column"
    return source.error(f"{in_backquotes(source.text)} is nested too deeply", rule, fix)


def _error_token(error: ParseError, tokens: list[Token]) -> Token:
    """Return the token at the line and column of an error of sqlglot; the last token if there is none."""
    details = error.errors[0] if error.errors else {}
    position = (details.get("line"), details.get("col"))
    return next((token for token in tokens if (token.line, token.col) == position), tokens[-1])


def _syntax_error(source: Source, token: Token) -> Exception:
    fix = "add or remove a value, an operator or a comma there"
    if token.token_type == TokenType.VAR:
        fix += '; a name with a blank, or that begins with a digit, stands in double quotes: "odd name"'
    if token.text.lower() in KEYWORDS and token.token_type not in _QUOTED:
        fix += f'; a column of this name stands in double quotes: "{token.text}"'
    value = _quote_token(source, token)
    return source.error(value, "the text is not a valid expression from there on", fix)


def _check_node(source: Source, node: exp.Expr) -> None:
    if not isinstance(node, _ALLOWED):
        what, fix = _REFUSED.get(type(node), ("this", "see the list in ple-rec prep --help-config"))
        raise source.error(in_backquotes(node_text(node)), f"{what} is not part of expressions", fix)
    if isinstance(node, exp.Column) and node.args.get("db"):
        raise source.error(
            in_backquotes(node_text(node)), "a name is `column` or `table.column`", "drop the first part"
        )
    if isinstance(node, exp.Cast) and (node.to.expressions or node.to.this not in TYPES):
        rule = "a cast makes int, bigint (both int64), float, double (both float64), string or boolean"
        raise source.error(f"{in_backquotes(node_text(node))} casts to another type", rule, "use one of these")
    if isinstance(node, exp.In) and not node.expressions:
        raise source.error(in_backquotes(node_text(node)), "`in` takes values in brackets", "write `x in (1, 2)`")
    if isinstance(node, exp.Is) and not isinstance(node.expression, exp.Null):
        raise source.error(
            in_backquotes(node_text(node)), "`is` takes null or not null", "write `=`, or the condition alone"
        )
