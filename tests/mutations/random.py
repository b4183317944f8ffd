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
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.mutations.mutants import MOST_DRAWS, Mutant, code_files, draw, lines_of, mutants_of
from tests.mutations.run import ROOT, Copies, Outcome, changed, import_problem, run_tests, undefined_names

OPTIONS = ("--hypothesis-profile=ci",)  # the same examples in every run
# The list of faults looks at the text of the code, and would notice a mutant without running it.
SUITE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--ignore=tests/test_mutations.py", *OPTIONS)
MOST_SECONDS_WITHOUT = 7200.0


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


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
