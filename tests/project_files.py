"""The files of the project, as git knows them: not what a virtual environment or a run has left in the tree."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# Git lists the files of its index, and new ones that .gitignore does not name.
_GIT = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--")


def project_files(folders: Sequence[str], suffix: str = "", root: Path = REPOSITORY) -> list[Path]:
    """Return the files of the project below some folders, sorted by path.

    Where there is no git repository, as in an unpacked sdist, these are the files that the package lists as its own.

    Args:
        folders: Folders, relative to `root`; the whole tree if there are none.
        suffix: Ending of the names, such as `.py`.
        root: Root of the tree.

    Raises:
        FileNotFoundError: `root` has neither a git repository nor a list of the package.
    """
    if (root / ".git").exists():
        run = subprocess.run([*_GIT, *folders], cwd=root, check=True, capture_output=True, text=True, encoding="utf-8")
        names = set(filter(None, run.stdout.split("\0")))
    else:
        lists = [*root.glob("*.egg-info/SOURCES.txt")]
        if not lists:
            raise FileNotFoundError(f"{root} has no .git and no *.egg-info/SOURCES.txt: run make setup, which makes it")
        listed = lists[0].read_text(encoding="utf-8").splitlines()
        names = {name for name in listed if not folders or any(f"{name}/".startswith(f"{f}/") for f in folders)}
    # Git still lists a file that is removed and not committed.
    return sorted(root / name for name in names if name.endswith(suffix) and (root / name).is_file())
