"""Put random mutants into copies of the tree, one at a time, and tell which test catches each.

    python -m tests.mutations.random --seed 1 --count 50 --folder ple_rec/runs [--folder ...] [--jobs N] [--no-suite]
        [--only K ...]

A mutant changes one place of one line. The lines are drawn evenly from those where a change is possible; then one of
the kinds of change that are possible at this line; then one change of this kind. A mutant with which the code does not
compile, uses a name that nothing defines or cannot be imported is replaced by another. Seed and tree determine the
mutants, and `--only 7` tries the seventh alone.

First run the tests that lie beside the changed file; if they pass, the whole fast suite. Each set of tests runs once
without a mutant before. Exit code 0 whether or not mutants survive: a survivor asks for a reader, who decides whether
a test is missing or the change makes no difference.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import itertools
import random
import re
import sys
import tempfile
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.mutations.run import ROOT, Copies, Outcome, changed, import_problem, run_tests, undefined_names
from tests.project_files import project_files

OPTIONS = ("--hypothesis-profile=ci",)  # the same examples in every run
# The list of faults looks at the text of the code, and would notice a mutant without running it.
SUITE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--ignore=tests/test_mutations.py", *OPTIONS)
MOST_DRAWS = 100
MOST_SECONDS_WITHOUT = 7200.0
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


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Args:
        number: Number of the mutant.
        mutant: Mutant.
        result: `caught`, `survived` or `not tried`.
        text: Test that caught it, or the reason why it was not tried.
        seconds: Duration of the tests that ran with it.
    """

    number: int
    mutant: Mutant
    result: str
    text: str
    seconds: float = 0.0


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


def find_tests(root: Path, file: str) -> str:
    """Return the folder or file of the tests that lie beside a file of code; empty if there are none."""
    path = PurePosixPath(file.removeprefix("ple_rec/"))
    for folder in [*path.parents][:-1]:  # not the root
        if (root / "tests" / folder).is_dir():
            return f"tests/{folder}"
    own = f"tests/test_{path.stem}.py"
    return own if len(path.parts) == 1 and (root / own).is_file() else ""


class Trial:
    """Trial of mutants on copies of a tree.

    Args:
        root: Root of the tree.
        copies: Copies of the tree.
        options: Options of pytest for the tests beside a file.
        suite: Arguments of pytest for the suite; None if it does not run.
        say: Receiver of a line for each run of tests without a mutant.
    """

    def __init__(
        self,
        root: Path,
        copies: Copies,
        options: tuple[str, ...],
        suite: tuple[str, ...] | None,
        say: Callable[[str], object],
    ) -> None:
        self._root, self._copies, self._options, self._suite, self._say = root, copies, options, suite, say
        self._without: dict[tuple[str, ...], Outcome] = {}
        self._lock = threading.Lock()

    def judge(self, number: int, draws: Iterator[Mutant]) -> Verdict:
        """Try the first valid mutant of some draws."""
        return self._copies.use(lambda copy: self._judge(copy, number, draws))

    def _judge(self, copy: Path, number: int, draws: Iterator[Mutant]) -> Verdict:
        reason = ""
        for mutant in draws:
            with changed(copy / mutant.file, mutant.mutated):
                reason = undefined_names(copy, mutant.file) or import_problem(copy, mutant.file)
            if not reason:
                break
        else:
            raise RuntimeError(f"mutant {number}: none of {MOST_DRAWS} draws is valid, the last one says: {reason}")
        beside, seconds, problems, passed = find_tests(self._root, mutant.file), 0.0, [], False
        for tests in ((*self._options, beside) if beside else None, self._suite):
            if tests is None:
                continue
            before = self._run_without(copy, tests)
            if not before.passed:
                problems.append(f"{before.first} fails without a mutant")
                continue
            with changed(copy / mutant.file, mutant.mutated):
                outcome = run_tests(copy, tests, 120 + 5 * before.seconds)
            seconds += outcome.seconds
            if not outcome.passed:
                return Verdict(number, mutant, "caught", outcome.first, seconds)
            passed = True
        if passed:
            return Verdict(number, mutant, "survived", "", seconds)
        return Verdict(number, mutant, "not tried", "; ".join(problems) or f"no tests lie beside {mutant.file}")

    def _run_without(self, copy: Path, tests: tuple[str, ...]) -> Outcome:
        with self._lock:
            if tests not in self._without:
                outcome = self._without[tests] = run_tests(copy, tests, MOST_SECONDS_WITHOUT)
                result = "passed" if outcome.passed else f"FAILED, so these tests are left out: {outcome.first}"
                self._say(f"{outcome.seconds:.0f} s without a mutant: {' '.join(tests)}: {result}")
            return self._without[tests]


def run(
    root: Path,
    folders: Sequence[str],
    seed: int,
    numbers: Sequence[int],
    jobs: int,
    say: Callable[[str], object],
    options: tuple[str, ...] = OPTIONS,
    suite: tuple[str, ...] | None = SUITE,
) -> list[Verdict]:
    """Try mutants of the files of some folders.

    Args:
        root: Root of the tree.
        folders: Folders or files, from the root of the tree.
        seed: Seed of the draw.
        numbers: Numbers of the mutants to try; the first one is 1.
        jobs: Number of mutants tried at a time.
        say: Receiver of each line of text.
        options: Options of pytest for the tests beside a file.
        suite: Arguments of pytest for the suite; None if it does not run.

    Raises:
        ValueError: a folder does not exist, or has no code.
    """
    lines = lines_of([mutant for file in code_files(root, folders) for mutant in mutants_of(*file)])
    say(f"{len(lines)} lines of {', '.join(folders)} can be changed")
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        trial = Trial(root, Copies(root, Path(folder), jobs), options, suite, say)
        for verdict in pool.map(lambda number: trial.judge(number, draw(lines, seed, number)), numbers):
            say(describe(verdict))
            verdicts.append(verdict)
    survivors = [verdict for verdict in verdicts if verdict.result == "survived"]
    counts = (f"{sum(v.result == result for v in verdicts)} {result}" for result in ("caught", "survived", "not tried"))
    say(f"{len(verdicts)} mutants of seed {seed}: {', '.join(counts)}")
    for verdict in survivors:
        say("\n".join([f"\n# survivor {verdict.number}: {verdict.mutant.kind}", *verdict.mutant.diff()]))
    return verdicts


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


def describe(verdict: Verdict) -> str:
    """Return a line for a mutant and what became of it, and its changed lines below it."""
    mutant = verdict.mutant
    texts = {"caught": f"caught by {verdict.text}", "survived": "SURVIVED", "not tried": f"NOT TRIED: {verdict.text}"}
    head = f"{verdict.number:3} {mutant.file}:{mutant.line} {mutant.kind}: {texts[verdict.result]}"
    changed_lines = [f"      {line[0]} {line[1:]}" for line in mutant.diff(context=0)[3:] if line[0] in "+-"]
    return "\n".join([f"{head} ({verdict.seconds:.0f} s)", *changed_lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants that the command line asks for."""
    usage = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(prog="python -m tests.mutations.random", description=usage[0])
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw (default 1)")
    parser.add_argument("--count", type=int, default=50, help="number of mutants (default 50)")
    parser.add_argument("--folder", action="append", required=True, help="folder or file of code; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried at a time (default 1)")
    parser.add_argument("--no-suite", action="store_true", help="run the tests beside the changed file alone")
    parser.add_argument(
        "--only", type=int, nargs="+", metavar="K", help="numbers of the mutants to try; all by default"
    )
    options = parser.parse_args(arguments)
    if min(options.count, options.jobs, *(options.only or [1])) < 1:
        parser.error("--count, --jobs and --only: 1 is the least; give larger numbers")
    numbers = options.only or range(1, options.count + 1)
    suite = None if options.no_suite else SUITE
    try:
        run(ROOT, options.folder, options.seed, numbers, options.jobs, _say, suite=suite)
    except ValueError as error:
        parser.error(str(error))
    return 0


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


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
