"""The wheel, installed without the tree: it holds every file of the packages, and each of the three ways to run works.

What the package needs comes from the environment of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from ple_rec import __version__
from tests.project_files import project_files
from tests.tiny import CONFIG, write_tiny

PACKAGES = ("ple_rec", "data_prep", "launch")
BUILD = ("setup.cfg", "pyproject.toml", "README.md")
TORCHX = ("-c", "from torchx.cli.main import main; main()")


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel.

    Args:
        wheel: Path of the wheel.
        python: Python of the environment.
    """

    wheel: Path
    python: Path

    def run(self, here: Path, *argv: str) -> str:
        """Run Python in a folder and return what it prints; the tree is on no path."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        path = f"{self.python.parent}{os.pathsep}{kept['PATH']}"
        done = subprocess.run(
            [str(self.python), *argv],
            cwd=here,
            env=kept | {"PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ple_rec(self, here: Path, *argv: str) -> str:
        """Run the installed command."""
        return self.run(here, str(self.python.parent / "ple-rec"), *argv)


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    for file in project_files([*PACKAGES, *BUILD]):  # a copy: the build writes beside what it reads
        copy = folder / "tree" / file.relative_to(repository)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder), str(folder / "tree")]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    (site_packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site_packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(wheel, python)


def test_it_holds_every_file_of_the_packages(installed: Installed, repository: Path) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        there = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert there == {str(path.relative_to(repository)) for path in project_files(PACKAGES)}


def test_it_works_without_the_tree(installed: Installed, tmp_path: Path) -> None:
    assert installed.wheel.name.startswith(f"ple_rec-{__version__}-")
    assert installed.ple_rec(tmp_path, "--version") == f"ple-rec {__version__}\n"
    where = installed.run(tmp_path, "-c", "import ple_rec, data_prep, launch; print(ple_rec.__file__)")
    assert Path(where.strip()).is_relative_to(installed.python.parent.parent)
    (tmp_path / "log.csv").write_text(
        "user,video,click,time\n"
        + "".join(f"u{i % 7},v{i % 5},{i % 2},{1_700_000_000 + 8_640 * i}\n" for i in range(90))
    )
    # One process, since each imports torch for seconds.
    said = installed.run(
        tmp_path,
        "-c",
        "import sys; from ple_rec.cli import main; sys.exit(max(main(line.split()) for line in sys.argv[1:]))",
        "doctor",
        "init new --from log.csv",
        "prep new/prep.toml --from . --out data/new --dry-run",
        "plan --config tencent-ple --hosts 2 --gpus-per-host 8 --device a100-80",
    )
    assert "all is well" in said
    assert "= 16 ranks" in said


def test_its_components_run_from_any_folder(installed: Installed, tmp_path: Path) -> None:
    listed = installed.run(tmp_path, *TORCHX, "builtins")
    for name in (
        "ple_rec.train",
        "ple_rec.prep",
        "ple_rec.plan",
        "dist.ddp",
        "utils.echo",
    ):  # TorchX's own are still there
        assert name in listed
    write_tiny(tmp_path)
    (tmp_path / "tiny.toml").write_text(CONFIG)
    installed.run(
        tmp_path,
        *TORCHX,
        "run",
        "-s",
        "local_cwd",
        "--workspace=",
        "ple_rec.train",
        "--config",
        "tiny.toml",
        "--nproc",
        "2",
    )
    metrics = json.loads((tmp_path / "runs" / "tiny" / "metrics.json").read_text())
    assert metrics["world_size"] == 2
    assert "<svg" in (tmp_path / "runs" / "tiny" / "report.html").read_text()
