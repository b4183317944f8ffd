"""Mutants of Python code: every change of one place of a line, and the draw of some of them."""

from __future__ import annotations

import ast
import difflib
import itertools
import random
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.project_files import project_files

MOST_DRAWS = 100
COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "|"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
LOGIC = {ast.And: ("and", "or"), ast.Or: ("or", "and")}
AXES = {"0": "1", "1": "0", "-1": "0"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
KEPT_WHOLE = (*FUNCTIONS, ast.ClassDef, ast.Pass, ast.Global, ast.Nonlocal)
TYPES = {"annotation", "returns", "type_params"}  # fields of nodes

Change = tuple[str, int, int, str]  # kind, begin and end of the replaced text, text that takes its place


@dataclass(frozen=True)
class Mutant:
    """A change of one place of a file.

    Args:
        file: Path of the file, from the root of the tree.
        line: Number of the line in which the change begins.
        kind: Kind of the change, such as `comparison`.
        source: Source of the file.
        mutated: Source with the change.
    """

    file: str
    line: int
    kind: str
    source: str
    mutated: str

    def diff(self, context: int = 3) -> list[str]:
        """Return the lines of the unified diff."""
        lines = self.source.split("\n"), self.mutated.split("\n")
        return [*difflib.unified_diff(*lines, f"a/{self.file}", f"b/{self.file}", n=context, lineterm="")]


class Source:
    """Text of a file, whose parts are found by the nodes of its syntax tree."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = text.encode().splitlines(keepends=True)  # str.splitlines() knows more ends of lines than Python
        lengths = (len(line.decode()) for line in self._lines)
        self._starts = [0, *itertools.accumulate(lengths)]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return begin and end of a node, without the parentheses around it."""
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._place(node.lineno, node.col_offset), self._place(node.end_lineno, node.end_col_offset)

    def of(self, node: ast.AST) -> str:
        """Return the text of a node."""
        begin, end = self.span(node)
        return self.text[begin:end]

    def _place(self, line: int, column: int) -> int:  # ast counts columns in bytes
        return self._starts[line - 1] + len(self._lines[line - 1][:column].decode())


def mutants_of(file: str, text: str) -> list[Mutant]:
    """Return every mutant of a file, in the order of its nodes."""
    source = Source(text)
    mutants = []
    for node, in_function in code_nodes(ast.parse(text)):
        for kind, begin, end, instead in changes_at(node, in_function, source):
            mutated = text[:begin] + instead + text[end:]
            if mutated != text:
                mutants.append(Mutant(file, 1 + text.count("\n", 0, begin), kind, text, mutated))
    return mutants


def code_nodes(node: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Yield the nodes of code below a node, each with the flag whether it is in a function.

    Docstrings, imports and annotations are no code. Parts of f-strings are left out, since Python 3.11 does not know
    their positions.
    """
    for field, value in ast.iter_fields(node):
        inside = field == "body" if isinstance(node, FUNCTIONS) else in_function and not isinstance(node, ast.ClassDef)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in TYPES and not _is_no_code(child):
                yield child, inside
                if not isinstance(child, ast.JoinedStr):
                    yield from code_nodes(child, inside)


def changes_at(node: ast.AST, in_function: bool, source: Source) -> Iterator[Change]:
    """Yield the changes of a node itself, not of those below it."""
    if isinstance(node, ast.stmt) and not isinstance(node, KEPT_WHOLE):
        yield "dropped statement", *source.span(node), "pass"
        if in_function and source.of(node) not in {"return", "return None"}:
            yield "early return", *source.span(node), "return None"
    match node:
        case ast.Constant(value=bool()):
            yield "constant", *source.span(node), str(not node.value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", *source.span(node), repr(2 * value if value else value + 2)
            if isinstance(value, int):
                yield "off by one", *source.span(node), str(value + 1)
                yield "off by one", *source.span(node), str(value - 1)
        case ast.Constant(value=str() | bytes()) | ast.JoinedStr():
            quotes = 3 if (text := source.of(node)).endswith(('"""', "'''")) else 1
            yield "constant", *source.span(node), f"{text[:-quotes]}x{text[-quotes:]}"
        case ast.Slice():
            yield from _one_more_or_less([node.lower, node.upper], source)
        case ast.Call():
            if isinstance(node.func, ast.Name) and node.func.id == "range":
                yield from _one_more_or_less(node.args, source)
            yield from _changed_arguments(node, source)
        case ast.Compare():
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                yield from _exchanged("comparison", COMPARISONS.get(type(operator)), left, right, source)
        case ast.BoolOp():
            for left, right in itertools.pairwise(node.values):
                yield from _exchanged("and, or", LOGIC.get(type(node.op)), left, right, source)
        case ast.BinOp():
            yield from _exchanged("arithmetic", ARITHMETIC.get(type(node.op)), node.left, node.right, source)
        case ast.AugAssign():
            yield from _exchanged("arithmetic", ARITHMETIC.get(type(node.op)), node.target, node.value, source)
        case ast.If() | ast.While() | ast.IfExp():
            yield from _negated(node.test, source)
        case ast.comprehension():
            for condition in node.ifs:
                yield from _negated(condition, source)


def lines_of(mutants: Sequence[Mutant]) -> list[dict[str, list[Mutant]]]:
    """Return the mutants of each line by their kind."""
    lines: dict[tuple[str, int], dict[str, list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for mutant in mutants:
        lines[mutant.file, mutant.line][mutant.kind].append(mutant)
    return [*lines.values()]


def draw(lines: Sequence[dict[str, list[Mutant]]], seed: int, number: int) -> Iterator[Mutant]:
    """Yield the mutant of a number, and those that replace it one after another if it is invalid.

    Two numbers begin with different lines, as long as there are as many.
    """
    generator = random.Random(f"{seed} {number}")
    line = random.Random(seed).sample(lines, len(lines))[(number - 1) % len(lines)]
    for _ in range(MOST_DRAWS):
        mutant = generator.choice(line[generator.choice([*line])])
        if _compiles(mutant.mutated):
            yield mutant
        line = generator.choice(lines)


def code_files(root: Path, folders: Sequence[str]) -> list[tuple[str, str]]:
    """Return path, from the root, and source of each Python file with code that can be changed.

    Raises:
        ValueError: a folder does not exist, or has no such file.
    """
    files: dict[str, str] = {}
    for name in folders:
        place = (root / name).resolve()
        if not (place.exists() and place.is_relative_to(root.resolve())):
            raise ValueError(f"--folder {name}: {root} has no such folder; name one from there, such as ple_rec/runs")
        paths = project_files([str(place.relative_to(root.resolve()))], ".py", root)
        sources = {str(path.relative_to(root)): path.read_bytes().decode() for path in paths}
        with_code = {file: source for file, source in sources.items() if mutants_of(file, source)}
        if not with_code:
            raise ValueError(f"--folder {name}: it has no Python code that can be changed; name a folder that has some")
        files.update(with_code)
    return sorted(files.items())


def _exchanged(
    kind: str, signs: tuple[str, str] | None, left: ast.expr, right: ast.expr, source: Source
) -> Iterator[Change]:
    """Yield the exchange of the operator that stands between two operands."""
    if signs is not None:
        begin, end = source.span(left)[1], source.span(right)[0]
        between = re.sub("#[^\n]*", lambda comment: " " * len(comment[0]), source.text[begin:end])
        if (place := between.find(signs[0])) >= 0:
            yield kind, begin + place, begin + place + len(signs[0]), signs[1]


def _one_more_or_less(bounds: Sequence[ast.expr | None], source: Source) -> Iterator[Change]:
    """Yield bounds moved by one. Bounds that are constants are changed as such."""
    for bound in bounds:
        if bound is not None and not isinstance(bound, ast.Constant | ast.UnaryOp | ast.Starred):
            for move in ("+ 1", "- 1"):
                yield "off by one", *source.span(bound), f"({source.of(bound)}) {move}"


def _changed_arguments(call: ast.Call, source: Source) -> Iterator[Change]:
    named = [keyword.value for keyword in call.keywords if keyword.arg is not None]
    values = [*(value for value in call.args if not isinstance(value, ast.Starred)), *named]
    for first, second in itertools.combinations(sorted(values, key=source.span), 2):
        (begin, end_of_first), (begin_of_second, end) = source.span(first), source.span(second)
        between = source.text[end_of_first:begin_of_second]
        yield "swapped arguments", begin, end, f"{source.of(second)}{between}{source.of(first)}"
    for keyword in call.keywords:
        if keyword.arg in {"axis", "dim"} and (other := AXES.get(source.of(keyword.value))):
            yield "other axis", *source.span(keyword.value), other


def _negated(condition: ast.expr, source: Source) -> Iterator[Change]:
    if isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
        yield "negated condition", *source.span(condition), f"({source.of(condition.operand)})"
    else:
        yield "negated condition", *source.span(condition), f"not ({source.of(condition)})"


def _is_no_code(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.AnnAssign(value=None):
            return True
    return False


def _compiles(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "mutant", "exec", dont_inherit=True)
        except SyntaxError:
            return False
    return True
