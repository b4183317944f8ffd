"""What scripts rely on: options and configuration keys of the verbs, exit codes, variables of the environment."""

from __future__ import annotations

import ast
import re
import shutil
import signal
from pathlib import Path
from typing import Any

from tests.golden.doors import ple_rec, ple_rec_apart, ple_rec_with_signal, succeed
from tests.project_files import project_files

VERBS = (
    *("doctor", "prep", "verify", "plan", "train", "evaluate", "runs", "diff", "report", "analyze", "repeat"),
    *("compare", "fuse", "predict", "export", "serve", "checkpoint list", "checkpoint verify", "checkpoint show"),
)  # `bench` measures this program for those who change it
_PRODUCT = ("ple_rec", "data_prep", "launch")
_WITH_CONFIGURATION = ("prep", "train", "compare")
_DIVERGES = ("--set", "dense_optimizer.learning_rate=1e30")
_ENDLESS = ("train.steps=1000000", "train.report_every=1", "train.evaluate_every=1000000", "checkpoint.every=1000000")


def options(at: Path) -> dict[str, Any]:
    """Return the options of every verb with what stands for their value, empty for a switch."""
    return {verb: _options(succeed(*verb.split(), "--help", at=at)) for verb in VERBS}


def _options(text: str) -> dict[str, str]:
    """Read the options of a help text; how they are explained is left out."""
    found = {}
    for line in re.findall(r"^[ │|]+(-{1,2}[a-z].*)$", text, re.MULTILINE):
        for spelling in re.split(r" {2,}", line)[0].split(", "):
            name, _, value = spelling.strip().partition(" ")
            found[name] = value
    return {name: value for name, value in sorted(found.items()) if name not in ("-h", "--help")}


def configuration_keys(at: Path) -> dict[str, list[str]]:
    """Return the keys of every TOML file that a verb takes, as its `--help-config` lists them."""
    return {verb: _configuration_keys(succeed(verb, "--help-config", at=at)) for verb in _WITH_CONFIGURATION}


def _configuration_keys(text: str) -> list[str]:
    section, found = "", set()
    for line in text.splitlines():
        if header := re.match(r"\[+([\w.]+)\]+", line):
            section = f"{header[1]}."
        elif key := re.match(r"(?:  )?(\w+): ", line):
            found.add(section + key[1])
    return sorted(found)


def environment_names() -> list[str]:
    """Return the variables of the environment that the program reads."""
    trees = [ast.parse(source) for source in _sources()]
    constants = {
        target.id: node.value.value
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = set()
    for tree in trees:
        for node in ast.walk(tree):
            name = _name_read(node)
            if isinstance(name, ast.Constant):
                found.add(str(name.value))
            elif isinstance(name, ast.Name) and name.id in constants:
                found.add(constants[name.id])
    return sorted(found)


def words() -> set[str]:
    """Return every word in capitals of the program, names of variables among them, wherever they are read."""
    return {word for source in _sources() for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", source)}


def _sources() -> list[str]:
    """Return the text of every module of the program, but for its benchmarks."""
    return [file.read_text("utf-8") for file in project_files(_PRODUCT, ".py") if "bench" not in file.parts]


def _name_read(node: ast.AST) -> ast.expr | None:
    """Return the key of `environ[KEY]`, `environ.get(KEY)`, `environ.setdefault(KEY, ..)` and `KEY in environ`."""
    if isinstance(node, ast.Subscript) and _is_environment(node.value):
        return node.slice
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_environment(node.func.value):
        return node.args[0] if node.args else None
    if isinstance(node, ast.Compare) and any(_is_environment(each) for each in node.comparators):
        return node.left
    return None


def _is_environment(node: ast.expr) -> bool:
    return ast.unparse(node) in ("os.environ", "environ")


def exit_codes(at: Path) -> dict[str, int]:
    """Return the exit codes of verbs that are one process, in every case that scripts tell apart.

    Args:
        at: A folder with `ple.toml` and the dataset; what the verbs write there stays.
    """
    shutil.copytree(at / "data" / "golden", at / "data" / "damaged")
    with (at / "data" / "damaged" / "vocab" / "age.parquet").open("ab") as vocabulary:
        vocabulary.write(b"x")
    train = ("train", "--config", "ple.toml", "--run-dir")
    endless = [word for setting in _ENDLESS for word in ("--set", setting)]
    codes = {
        "verify, of a whole dataset": ple_rec("verify", "data/golden", at=at),
        "train, without a configuration": ple_rec("train", at=at),
        "verify, of a damaged dataset": ple_rec("verify", "data/damaged", at=at),
        "train, that diverges": ple_rec(*train, "later/diverged", *_DIVERGES, at=at),
    }
    for number in (signal.SIGTERM, signal.SIGINT):
        run = f"later/{number.name}"
        codes[f"train, after {number.name}"] = ple_rec_with_signal(
            number, f"{run}/train.jsonl", *train, run, *endless, at=at
        )
    return {case: said.code for case, said in codes.items()}


def exit_codes_of_many_runs(at: Path) -> dict[str, int]:
    """Return the exit code of a verb of which some runs fail; each is a process.

    Args:
        at: A folder with `ple.toml` and the dataset.
    """
    repeat = ("repeat", "--config", "ple.toml", "--seeds", "1", "--runs", "later")
    return {"repeat, of a run that fails": ple_rec_apart(*repeat, *_DIVERGES, at=at).code}
