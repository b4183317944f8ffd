"""Worlds: folders with prepared data, trained runs or exported models, each made once in a run of the tests.

The first worker that needs a world makes it, and all workers read it. A test that changes files of a world copies it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def shared_world(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder of a world, which is made if no worker of this run has made it.

    Args:
        factory: Factory of temporary folders of this process; worlds lie where all workers of the run see them.
        name: Name of the world, unique in the tests.
        make: Function that fills an empty folder.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # The factory of each worker has a folder of its own in the folder of the run.
    folder, complete = root / "worlds" / name, root / "worlds" / f"{name}.complete"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # An earlier attempt may have failed.
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder


def copy_inputs(world: Path, root: Path) -> Path:
    """Copy the raw logs and the configuration of a world of a feed to a folder, and return the folder."""
    shutil.copytree(world / "raw", root / "raw")
    shutil.copy(world / "feed.toml", root)
    return root
