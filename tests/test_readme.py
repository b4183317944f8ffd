"""README's commands: each is one that the program takes; all of them are executed with the slow tests.

Every fenced block whose info string starts with `sh` is run, block by block in README's order, by `sh -e` in one
working directory that all blocks share: what a block writes, the next one finds. The convention:

    ```sh          run by `make test`
    ```sh slow     run by `make test-all` only, as all of README's: several import torch, each in a process of its own
    any other tag  never run: output, configuration, sketches

- Where lines of a block start with `$ `, those are its commands and the others are their output; otherwise every line
  is a command. A command goes on where its line ends with a backslash.
- Commands that set things up and run elsewhere in CI are left out by their first word: make, git, cd, source, `.`
- The working directory holds the clone's files by links, `data/census` (a made-up slice of the census in the place of
  the real rows, so training takes seconds) and a `runs/` of its own. `ple-rec`, `python` and `torchx` are on PATH.
  `ple-rec prep census` prepares the slice and needs no network.
- A command fails the test by its exit code, so README shows none that fails.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from torchx.runner import get_runner

from ple_rec.cli.app import parse
from ple_rec.config.choices import COMPARISON_CONFIGS, recipe_names
from tests.data_prep.datasets.census_slice import (
    TEST_ROWS,
    TRAIN_ROWS,
    make_rows,
    make_source,
    prepare_slice,
    write_raw,
)

README = Path(__file__).resolve().parent.parent / "README.md"
ELSEWHERE = ("make", "git", "cd", "source", ".")
SECONDS_A_BLOCK = 300
# In every Python below the working directory, before anything else: `prep census` means the slice.
CUSTOMIZE = """\
import sys
if "prep" in sys.orig_argv:
    from pathlib import Path
    from data_prep import run
    from tests.data_prep.datasets.census_slice import TEST_ROWS, TRAIN_ROWS, Census, make_rows, make_source
    class Slice(Census):
        def _find_or_download(self, source):
            return super()._find_or_download(source or Path({raw!r}))
    made = make_source(make_rows(TRAIN_ROWS, 1), make_rows(TEST_ROWS, 2))
    run.BUILT_IN["census"] = Slice(made.expected, made.origins)
"""


class Block(NamedTuple):
    """A fenced block: the line of README where it begins, and its commands."""

    line: int
    slow: bool
    commands: list[str]


def blocks(text: str) -> list[Block]:
    """Blocks that are to be run, without those that have no command left."""
    found = []
    for match in re.finditer(r"^```sh(?P<info>[^\S\n][^\n]*)?\n(?P<body>.*?)^```\s*$", text, re.MULTILINE | re.DOTALL):
        info = (match["info"] or "").split()
        assert info in ([], ["slow"]), f"README: `sh {' '.join(info)}`; known are `sh` and `sh slow`"
        line = text.count("\n", 0, match.start()) + 1
        if commands := commands_of(match["body"]):
            found.append(Block(line, info == ["slow"], commands))
    return found


def commands_of(body: str) -> list[str]:
    """The commands of a block, each whole."""
    prompted = re.search(r"^\$ ", body, re.MULTILINE) is not None
    commands: list[str] = []
    goes_on = False
    for line in body.splitlines():
        if goes_on:
            commands[-1] += "\n" + (line.removeprefix("> ") if prompted else line)
        elif prompted and line.startswith("$ "):
            commands.append(line.removeprefix("$ "))
        elif not prompted and line.strip() and not line.lstrip().startswith("#"):
            commands.append(line)
        else:
            continue
        goes_on = line.endswith("\\")
    return [command for command in commands if command.split()[0] not in ELSEWHERE]


def cases() -> list[object]:
    text = README.read_text() if README.is_file() else ""
    return [
        pytest.param(block, id=f"line {block.line}", marks=[pytest.mark.slow] if block.slow else [])
        for block in blocks(text)
    ]


@pytest.fixture(scope="module")
def clone(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The working directory, and the environment of the commands."""
    base = tmp_path_factory.mktemp("readme")
    here = base / "ple rec"  # people have such folders
    here.mkdir()
    for entry in repository.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("data", "runs", "build", "dist"):
            (here / entry.name).symlink_to(entry)
    train, test = make_rows(TRAIN_ROWS, 1), make_rows(TEST_ROWS, 2)
    raw = write_raw(base / "raw", train, test)
    prepare_slice(make_source(train, test), here / "data" / "census", raw, threads=1)
    (base / "python").mkdir()
    (base / "python" / "sitecustomize.py").write_text(CUSTOMIZE.format(raw=str(raw)))
    commands = {
        "python": f'exec "{sys.executable}" "$@"',
        "ple-rec": f'exec "{sys.executable}" -m ple_rec "$@"',
        "torchx": f'exec "{sys.executable}" -c "from torchx.cli.main import main; main()" "$@"',
    }
    (base / "bin").mkdir()
    for name, line in commands.items():
        (base / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (base / "bin" / name).chmod(0o755)
    path = f"{base / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {"PATH": path, "PYTHONPATH": f"{base / 'python'}:{repository}", "XDG_CACHE_HOME": str(base / "cache")}
    return here, os.environ | variables | {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("block", cases())
def test_a_block_runs(block: Block, clone: tuple[Path, dict[str, str]]) -> None:
    here, variables = clone
    done = subprocess.run(
        ["sh", "-e", "-c", "\n".join(block.commands)],
        cwd=here,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS_A_BLOCK,
    )
    assert done.returncode == 0, f"README, block at line {block.line}:\n{done.stdout}"


@pytest.mark.slow
def test_prep_means_the_slice(clone: tuple[Path, dict[str, str]]) -> None:
    here, variables = clone
    command = "ple-rec prep census --out data/census && ple-rec prep census --out data/again"
    done = subprocess.run(["sh", "-ec", command], cwd=here, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("data/census: already prepared")
    files = [(here / "data" / name / "schema.toml").read_text() for name in ("census", "again")]
    assert files[0] == files[1]


def test_every_command_is_one_that_the_program_takes(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    commands = [shlex.split(text, comments=True) for block in blocks(README.read_text()) for text in block.commands]
    assert {program for program, *_ in commands} == {"ple-rec", "python", "torchx"}
    for program, *argv in commands:
        if program == "python":
            assert Path(argv[0]).is_file()
        elif program == "torchx":
            scheduler, component, *given = argv[argv.index("-s") + 1 :]
            with get_runner() as runner:
                runner.dryrun_component(component, ["--check", "False", *given], scheduler, cfg={}, workspace="")
        else:
            parse(argv)
        if "--config" in argv:
            config = argv[argv.index("--config") + 1]
            assert config in (*recipe_names(), *recipe_names(COMPARISON_CONFIGS)) or Path(config).is_file()


def test_blocks_and_commands() -> None:
    text = """
```sh
# a comment
make demo && echo no
ple-rec train --config x \\
    --ranks 2   # two
git clone somewhere

echo "a  b"
```
```console
$ not this
```
```sh slow
$ ple-rec doctor
all is well
$ ple-rec prep census \\
> --out d
```
```shell
not this
```
```sh
make test
```
"""
    train = "ple-rec train --config x \\\n    --ranks 2   # two"
    assert blocks(text) == [
        Block(2, False, [train, 'echo "a  b"']),
        Block(14, True, ["ple-rec doctor", "ple-rec prep census \\\n--out d"]),
    ]
    assert blocks("no block\n") == []
    with pytest.raises(AssertionError, match="`sh skip`; known are `sh` and `sh slow`"):
        blocks("```sh skip\nls\n```\n")
