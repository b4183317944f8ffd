"""What an agent started is found wherever it went, and nothing else is touched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ple_rec.runtime.exits import AGENT_FOLDER, find_started_processes, reap
from tests.tiny import alive, wait_until


def test_a_process_that_has_detached_itself_is_found(tmp_path: Path) -> None:
    mine, other = str(tmp_path / "a"), str(tmp_path / "ab")
    bystander = subprocess.Popen(["sleep", "100"], env=os.environ | {AGENT_FOLDER: other})
    try:
        # A grandchild whose parent has ended, in a session of its own, deaf to SIGTERM.
        detached = 'exec >/dev/null 2>&1; trap "" TERM; sleep 100 & sleep 100'
        subprocess.run(["setsid", "--fork", "sh", "-c", detached], env=os.environ | {AGENT_FOLDER: mine}, check=True)
        assert wait_until(lambda: len(find_started_processes(mine)) == 3, 5)
        found = find_started_processes(mine)
        reap(mine)
        assert find_started_processes(mine) == []
        assert not any(map(alive, found))
        assert alive(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait()
