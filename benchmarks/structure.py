"""Structure of the code: sizes of files, circles of imports, and the files that each way through the code crosses.

The ways run on the example of docs/examples. A file counts if one of its functions is called, and a call crosses files
if its caller stands in another file of the project. Imports are not calls.

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
# A file with fewer lines is small.
_SMALL = 60
_RUN, _MODEL = "runs/feed", "models/feed"
_PREP = ("prep", "docs/examples/feed.toml", "--overwrite", "--from", "data/feed-raw", "--out", "data/feed")
_TRAIN = ("train", "--config", "docs/examples/feed_ple.toml", "--overwrite", "--run-dir", _RUN)
# Each way: its name, the event at which it ends (None: when the verb has ended), and the verb.
WAYS = (
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
    """Counter of the files whose functions are called, and the calls from one file to another.

    Args:
        root: Folder of the project.
    """

    def __init__(self, root: Path) -> None:
        self._folders = tuple(f"{root / name}{os.sep}" for name in PACKAGES)
        self.files: set[str] = set()
        self.crossings = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Count an event of `sys.setprofile`."""
        code = frame.f_code
        # Modules, classes, lambdas and comprehensions are no functions.
        is_function = code.co_flags & CO_OPTIMIZED and not code.co_name.startswith("<")
        if event != "call" or not is_function or not code.co_filename.startswith(self._folders):
            return
        self.files.add(code.co_filename)
        caller = frame.f_back
        if caller is not None and caller.f_code.co_filename.startswith(self._folders):
            self.crossings += caller.f_code.co_filename != code.co_filename

    def start(self) -> None:
        """Count from now on, in every thread."""
        threading.setprofile(self)
        sys.setprofile(self)

    def end(self) -> None:
        """Print the counts and end the process."""
        sys.setprofile(None)
        sys.stdout.write(f"\n{len(self.files)} {self.crossings}\n")
        sys.stdout.flush()
        os._exit(0)


def _end_at(event: str, tracer: Tracer) -> None:
    """End the process as soon as a part is written, a step is made or a checkpoint is saved."""

    def after(owner: Any, name: str, ends: Callable[[tuple[Any, ...]], bool]) -> None:
        before = getattr(owner, name)

        def both(*arguments: Any, **named: Any) -> Any:
            result = before(*arguments, **named)
            if ends(arguments):
                tracer.end()
            return result

        setattr(owner, name, both)

    if event == "part":
        splits = ("train", "valid", "test")
        after(Path, "replace", lambda paths: paths[0].name.startswith("part-") and paths[0].parent.name in splits)
        return
    import torch
    from torch.distributed import checkpoint

    if event == "step":
        after(torch.optim.Adam, "step", lambda _: True)
    else:
        after(checkpoint, "save", lambda _: True)


def trace(root: Path, event: str, verb: list[str]) -> None:
    """Run a verb in this process, and print the counts at its end, or once an event has happened."""
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


def traced(root: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the files and the crossing calls of each way, made one after the other in a temporary folder."""
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
        for way, event, verb in WAYS:
            output = python(str(Path(__file__).resolve()), "--trace", event or "", "--root", str(root), *verb)
            files, crossings = output.split()[-2:]
            yield way, int(files), int(crossings)


def modules(root: Path) -> dict[str, Path]:
    """Return the files of all modules of the project by dotted name."""
    files = [file for name in PACKAGES for file in (root / name).rglob("*.py")]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of the project that a file imports when it is imported itself."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names |= {name if (name := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name in known}


def in_circles(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that reach themselves by imports."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph[name]
        return seen

    return [name for name in graph if name in reached(name)]


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--root", type=Path, default=Path(__file__).resolve().parent.parent, help="folder to look at"
    )
    arguments.add_argument("--trace", help=argparse.SUPPRESS)
    arguments.add_argument("verb", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    root = args.root.resolve()
    if args.trace is not None:
        trace(root, args.trace, args.verb)
    known = modules(root)
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in known.items()}
    longest = max(lines, key=lambda name: lines[name])
    loose = [name for name in known if name.count(".") == 1 and known[name].name != "__init__.py"]
    graph = {name: imports(file, known) for name, file in known.items()}
    small = sum(count < _SMALL for count in lines.values())
    rows = [
        ("files", str(len(lines))),
        ("lines", f"{sum(lines.values()):,}"),
        ("median file", f"{statistics.median(lines.values()):.0f} lines"),
        (f"files below {_SMALL} lines", str(small)),
        ("longest file", f"{longest}, {lines[longest]} lines"),
        ("modules at the root of a package", str(len(loose))),
        ("modules in circles of imports", str(len(in_circles(graph)))),
    ]
    for name, value in rows:
        sys.stdout.write(f"{name:<36}{value}\n")
    for way, files, crossings in traced(root):
        sys.stdout.write(f"{way:<36}{files} files, {crossings:,} calls from one file to another\n")


if __name__ == "__main__":
    main()
