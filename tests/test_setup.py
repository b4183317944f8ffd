"""requirements/setup.sh: which interpreter and device it takes, what it refuses, and that a second run does nothing.

Interpreter and pip are a script that answers for a version and writes down what it is asked to do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# Of the machine's own commands the set-up sees these alone: no interpreter, no driver.
COMMANDS = ("sh", "dirname", "uname", "cat", "cksum", "rm", "mkdir", "cp", "tail", "grep")
WHEELS = (
    "torch, FBGEMM and the other pinned packages have wheels for Python 3.11, 3.12 and 3.13. "
    "Fix: {}make setup PYTHON=/path/to/python3.11\n"
)
PYTHON = """\
#!/bin/sh
version="{version}"
case "$*" in
    --version) echo "Python $version" ;;
    "-c import sys; print(*sys.version_info[:3])") echo $version | tr_dots ;;
    "-c import sys; sys.exit("*) case $version in 3.11.*|3.12.*|3.13.*) ;; *) exit 1 ;; esac ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip show "*) [ -f "$CALLS.torn" ] ;;
    *) echo "$*" >>"$CALLS"; if [ -f "$CALLS.fail" ]; then echo "no network"; exit 1; fi ;;
esac
""".replace("echo $version | tr_dots", "IFS=.; set -- $version; echo $1 $2 $3")
PACKAGES = [
    "-m pip install -r requirements/cpu.txt -r requirements/dev.txt",
    "-m pip install --no-deps --no-build-isolation -r requirements/cpu-no-deps.txt",
    "-W ignore -c import torch, fbgemm_gpu, torchrec",
]
PACKAGE = ["-m pip install --no-deps --no-build-isolation --editable ."]


class Clone:
    """A copy of what the set-up reads, in a path with a space, and a PATH of its own."""

    def __init__(self, repository: Path, base: Path) -> None:
        self.folder, self.bin, self.calls = base / "ple rec", base / "bin", base / "calls"
        shutil.copytree(repository / "requirements", self.folder / "requirements")
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(repository / name, self.folder)
        self.bin.mkdir()
        for name in COMMANDS:
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)

    def python(self, name: str, version: str) -> Path:
        """An interpreter of this version on PATH."""
        file = self.bin / name
        file.write_text(PYTHON.format(version=version))
        file.chmod(0o755)
        return file

    def setup(self, **variables: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr; run from elsewhere, as `make -C` would."""
        done = subprocess.run(
            [self.bin / "sh", self.folder / "requirements" / "setup.sh"],
            cwd=self.bin,
            env={"PATH": str(self.bin), "CALLS": str(self.calls)} | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def called(self) -> list[str]:
        """What the interpreters have been asked to do since the last look, apart from questions."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return lines


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Clone:
    if os.uname().sysname != "Linux":
        pytest.skip("the set-up refuses other systems than Linux")
    return Clone(repository, tmp_path)


@pytest.mark.parametrize(
    ("version", "what"), [(None, "absent"), ("3.10.14", "Python 3.10.14"), ("3.14.0", "Python 3.14.0")]
)
def test_no_fitting_interpreter(clone: Clone, version: str | None, what: str) -> None:
    if version is not None:
        clone.python("python3", version)
    text = f"setup: no fitting Python on PATH (python3 is {what}); " + WHEELS.format(
        "install one of them, or name it: "
    )
    assert clone.setup() == (2, "", text)
    assert not (clone.folder / ".venv").exists()


@pytest.mark.parametrize(("name", "what"), [("old", "Python 3.10.14"), ("nowhere", "absent")])
def test_a_named_interpreter_that_does_not_fit(clone: Clone, name: str, what: str) -> None:
    clone.python("python3", "3.11.9")
    clone.python("old", "3.10.14")
    named = str(clone.bin / name)
    assert clone.setup(PYTHON=named) == (2, "", f"setup: PYTHON={named} is {what}; " + WHEELS.format(""))
    assert not (clone.folder / ".venv").exists()


def test_an_unknown_device(clone: Clone) -> None:
    clone.python("python3", "3.11.9")
    assert clone.setup(DEVICE="gpu") == (2, "", "setup: DEVICE=gpu; it is cpu or cuda. Fix: make setup DEVICE=cpu\n")
    assert clone.called() == []


def test_another_system(clone: Clone) -> None:
    (clone.bin / "uname").unlink()
    (clone.bin / "uname").write_text('#!/bin/sh\n[ "$1" = -s ] && echo Darwin || echo arm64\n')
    (clone.bin / "uname").chmod(0o755)
    assert clone.setup() == (
        2,
        "",
        "setup: this is Darwin arm64; FBGEMM has wheels for Linux on x86_64 and aarch64. "
        "Fix: use such a machine or container\n",
    )


def test_a_second_run_does_nothing(clone: Clone) -> None:
    clone.python("python3.12", "3.12.3")
    clone.python("python3", "3.10.14")
    code, out, err = clone.setup()
    assert (code, err) == (0, "")
    assert out == (
        "setup: making .venv with Python 3.12.3\n"
        "setup: installing the pinned packages for cpu (the first time takes minutes; progress in .venv/setup.log)\n"
        "setup: installing torchrec and iopath without their requirements\n"
        "setup: importing torch, FBGEMM and torchrec\n"
        "setup: installing ple-rec from this folder\n"
        "setup: done (Python 3.12.3, device cpu)\n"
    )
    assert clone.called() == PACKAGES + PACKAGE
    assert clone.setup() == (0, "", "")
    assert clone.called() == []


@pytest.mark.parametrize(
    ("file", "calls"),
    [
        ("requirements/cpu.txt", PACKAGES + PACKAGE),
        ("requirements/cpu-no-deps.txt", PACKAGES + PACKAGE),
        ("requirements/dev.txt", PACKAGES + PACKAGE),
        ("requirements/cuda.txt", []),
        ("setup.cfg", PACKAGE),
        ("pyproject.toml", PACKAGE),
    ],
)
def test_a_change_installs_what_it_concerns(clone: Clone, file: str, calls: list[str]) -> None:
    clone.python("python3", "3.11.9")
    clone.setup()
    clone.called()
    with (clone.folder / file).open("a") as changed:
        changed.write("# changed\n")
    code, out, _ = clone.setup()
    assert (code, clone.called()) == (0, calls)
    assert "making .venv" not in out
    assert clone.setup() == (0, "", "")


def test_another_named_interpreter_makes_the_environment_anew(clone: Clone) -> None:
    clone.python("python3", "3.11.9")
    other = clone.python("python3.13", "3.13.1")
    assert clone.setup(PYTHON="python3")[0] == 0
    clone.called()
    assert clone.setup(PYTHON="python3") == (0, "", "")
    code, out, _ = clone.setup(PYTHON=str(other))
    assert (code, out.splitlines()[0]) == (0, "setup: making .venv with Python 3.13.1")
    assert clone.called() == PACKAGES + PACKAGE


def test_a_moved_clone_gets_an_environment_of_its_own(clone: Clone) -> None:
    clone.python("python3", "3.11.9")
    clone.setup()
    clone.called()
    clone.folder = clone.folder.rename(clone.folder.with_name("moved"))
    assert clone.setup()[1].startswith("setup: making .venv with Python 3.11.9\n")
    assert clone.called() == PACKAGES + PACKAGE


def test_a_failure_shows_the_log_and_is_tried_again(clone: Clone) -> None:
    clone.python("python3", "3.11.9")
    fail = clone.calls.with_name("calls.fail")
    fail.touch()
    code, _, err = clone.setup()
    assert (code, err) == (
        2,
        "no network\n"
        "setup: failed at: installing the pinned packages for cpu (the first time takes minutes; progress in "
        ".venv/setup.log). The whole output is in .venv/setup.log. Fix what it names, then run make setup again.\n",
    )
    assert clone.called() == PACKAGES[:1]
    fail.unlink()
    assert clone.setup()[0] == 0
    assert clone.called() == PACKAGES + PACKAGE


def test_another_device_removes_both_wheels_first(clone: Clone) -> None:
    clone.python("python3", "3.11.9")
    clone.setup()
    clone.called()
    clone.calls.with_name("calls.torn").touch()
    assert clone.setup(DEVICE="cuda")[0] == 0
    first, second, third, *_ = clone.called()
    assert first == "-m pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu"
    assert second == "-m pip install -r requirements/cuda.txt -r requirements/dev.txt"
    assert third == "-m pip install --no-deps --no-build-isolation -r requirements/cuda-no-deps.txt"
    assert clone.setup() == (0, "", "")  # the device that is set up stays
