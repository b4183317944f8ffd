"""Measure the structure of the code: sizes of files, import cycles, and the files that typical scenarios run through.

The scenarios, such as a training up to its first step, run on the example of docs/examples. A file counts if one of its
functions is called. A call counts if caller and function are in different files of the project. Imports are not calls.

    python -m benchmarks.structure [--root DIR]
"""

from __future__ import annotations

import argparse
import ast
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGES = ("ple_rec", "data_prep", "launch")
# Files with fewer lines are counted as small.
_SMALL_FILE_LINES = 60
_RUN, _MODEL = "runs/feed", "models/feed"
_PREP = ("prep", "docs/examples/feed.toml", "--overwrite", "--from", "data/feed-raw", "--out", "data/feed")
_TRAIN = ("train", "--config", "docs/examples/feed_ple.toml", "--overwrite", "--run-dir", _RUN)
# Name of each scenario, event at which its process ends (None: the end of the command), and subcommand of `ple-rec`.
# A part is a Parquet file of a dataset. `request` is no subcommand; `trace` sends a request to the exported model.
SCENARIOS = (
    ("a log to its first part", "part", _PREP),
    ("a log to its dataset", None, _PREP),
    ("a training to its first step", "step", _TRAIN),
    ("a training to its first checkpoint", "checkpoint", _TRAIN),
    ("a training to its report", None, _TRAIN),
    ("a plan", None, ("plan", "--config", "docs/examples/feed_ple.toml", "--device", "h100")),
    ("an export", None, ("export", _RUN, "--out", _MODEL)),
    ("a request", None, ("request", _MODEL)),
)


class Tracer:
    """Function for `sys.setprofile`, which records the files whose functions are called, and calls between files.

    Args:
        root: Folder of the project.

    Attributes:
        files: Paths of the files whose functions have been called.
        crossings: Number of calls from one file to another.
    """

    def __init__(self, root: Path) -> None:
        self._folders = tuple(f"{root / name}{os.sep}" for name in PACKAGES)
        self.files: set[str] = set()
        self.crossings = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Record the event "call" of a function of the project; other events and functions are ignored."""
        code = frame.f_code
        # Calls of modules, classes, lambdas and comprehensions do not count.
        is_function = code.co_flags & CO_OPTIMIZED and not code.co_name.startswith("<")
        if event != "call" or not is_function or not code.co_filename.startswith(self._folders):
            return
        self.files.add(code.co_filename)
        caller = frame.f_back
        if caller is not None and caller.f_code.co_filename.startswith(self._folders):
            self.crossings += caller.f_code.co_filename != code.co_filename

    def start(self) -> None:
        """Record calls from now on, in every thread."""
        threading.setprofile(self)
        sys.setprofile(self)

    def end(self) -> None:
        """Print the numbers of files and of calls between files, and end the process."""
        sys.setprofile(None)
        sys.stdout.write(f"\n{len(self.files)} {self.crossings}\n")
        sys.stdout.flush()
        os._exit(0)


def _end_at(event: str, tracer: Tracer) -> None:
    """Patch the function that brings the event about, so that the process ends at the event.

    The events are "part" (a Parquet file of the dataset is written), "step" and "checkpoint" (it is saved).
    """

    def call_after(owner: Any, name: str, is_end: Callable[[tuple[Any, ...]], bool]) -> None:
        original = getattr(owner, name)

        def original_then_check(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            if is_end(arguments):
                tracer.end()
            return result

        setattr(owner, name, original_then_check)

    if event == "part":
        splits = ("train", "valid", "test")
        call_after(Path, "replace", lambda paths: paths[0].name.startswith("part-") and paths[0].parent.name in splits)
        return
    import torch
    from torch.distributed import checkpoint

    if event == "step":
        call_after(torch.optim.Adam, "step", lambda _: True)
    else:
        call_after(checkpoint, "save", lambda _: True)


def trace(root: Path, event: str, verb: list[str]) -> None:
    """Run a subcommand in this process. At its end, or after an event, print the counts and end the process.

    Args:
        root: Folder of the project.
        event: Event at which the process ends: "part", "step" or "checkpoint"; "" for the end of the subcommand.
        verb: Subcommand of `ple-rec` with its arguments, or `request MODEL` for a request to a model.
    """
    tracer = Tracer(root)
    if event:
        _end_at(event, tracer)
    if verb[0] == "request":
        import ple_rec

        model = ple_rec.load_model(verb[1])
        tracer.start()
        model.rank({"user_id": 104017}, [{"video_id": "v39", "history": ["v1"], "seconds": 25.2, "hour": 3}])
    else:
        from ple_rec.cli import main as run

        tracer.start()
        if code := run(verb):
            raise SystemExit(code)
    tracer.end()


def trace_scenarios(root: Path) -> Iterator[tuple[str, int, int]]:
    """Run each scenario in a temporary folder; yield its name and its numbers of files and of calls between files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "docs").symlink_to(root / "docs")
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

        def python(*words: str) -> str:
            command = [sys.executable, "-W", "ignore", *words]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            return done.stdout

        python("docs/examples/feed_logs.py")
        for scenario, event, verb in SCENARIOS:
            output = python(str(Path(__file__).resolve()), "--trace", event or "", "--root", str(root), *verb)
            files, crossings = output.split()[-2:]
            yield scenario, int(files), int(crossings)


def module_files(root: Path) -> dict[str, Path]:
    """Return the files of all modules of the project by dotted name."""
    files = [file for name in PACKAGES for file in (root / name).rglob("*.py")]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported_modules(file: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of the project that a file imports at its top level."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names |= {name if (name := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name in known}


def modules_in_cycles(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that import themselves, directly or through other modules."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph[name]
        return seen

    return [name for name in graph if name in reachable(name)]


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parent.parent,
        help="folder of the project; default: this one",
    )
    arguments.add_argument("--trace", help=argparse.SUPPRESS)
    arguments.add_argument("verb", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    root = args.root.resolve()
    if args.trace is not None:  # `trace_scenarios` has started this process; `trace` ends it.
        trace(root, args.trace, args.verb)
    known = module_files(root)
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in known.items()}
    longest = max(lines, key=lambda name: lines[name])
    root_modules = [name for name in known if name.count(".") == 1 and known[name].name != "__init__.py"]
    graph = {name: imported_modules(file, known) for name, file in known.items()}
    small = sum(count < _SMALL_FILE_LINES for count in lines.values())
    rows = [
        ("files", str(len(lines))),
        ("lines", f"{sum(lines.values()):,}"),
        ("median file", f"{statistics.median(lines.values()):.0f} lines"),
        (f"files below {_SMALL_FILE_LINES} lines", str(small)),
        ("longest file", f"{longest}, {lines[longest]} lines"),
        ("modules at the root of a package", str(len(root_modules))),
        ("modules in circles of imports", str(len(modules_in_cycles(graph)))),
    ]
    for name, value in rows:
        sys.stdout.write(f"{name:<36}{value}\n")
    for scenario, files, crossings in trace_scenarios(root):
        sys.stdout.write(f"{scenario:<36}{files} files, {crossings:,} calls from one file to another\n")


if __name__ == "__main__":
    main()
