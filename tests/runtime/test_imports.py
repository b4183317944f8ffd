"""Large imports without the garbage collector; in a process of its own, whose objects they freeze."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tiny import environment

CHECK = """
import gc
from ple_rec.runtime.versions import suspend_garbage_collection

made = []
for collects in (True, False):
    (gc.enable if collects else gc.disable)()
    frozen = gc.get_freeze_count()
    try:
        with suspend_garbage_collection():
            assert not gc.isenabled()
            made += [[] for _ in range(1000)]
            raise ImportError
    except ImportError:
        pass
    assert gc.isenabled() is collects
    assert gc.get_freeze_count() - frozen >= 1000
"""


def test_nothing_is_collected_meanwhile_and_what_was_made_is_left_alone_later(repository: Path) -> None:
    subprocess.run([sys.executable, "-P", "-c", CHECK], env=environment(repository), check=True)


def test_training_starts_so(repository: Path) -> None:
    refused = "import gc, sys; from ple_rec.cli import main; code = main(['evaluate', 'nowhere']); "
    check = refused + "sys.exit(0 if code == 2 and gc.isenabled() and gc.get_freeze_count() > 100_000 else 1)"
    subprocess.run([sys.executable, "-P", "-c", check], env=environment(repository), check=True, capture_output=True)
