"""A process that trains and analyses one run of a comparison after another, so that torch is imported once.

`python -m ple_rec.cli.comparison_worker` is started by `ple_rec/analysis/compare/workers.py`. A line of its input is a
request, a line of its output the answer, JSON both:

    {"config": FILE, "run_dir": DIR, "log": FILE}   ->   {"code": 0, "seconds": S} or {"code": N, "message": TEXT, ...}

What training prints goes to the log. The process ends with its input.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import PleRecError, PreemptedError
from ple_rec.runtime.exits import end_process, stop_with_parent
from ple_rec.runtime.versions import large_imports
from ple_rec.text.messages import messages

_BUG = 1


def serve(requests: TextIO, answers: TextIO, run: Callable[[RunConfig, Path], object]) -> None:
    """Answer every request.

    Args:
        requests: A line each.
        answers: A line each.
        run: Trains a configuration into a run directory.
    """
    for line in requests:
        request = json.loads(line)
        begun = time.monotonic()
        answer = _answer(request, run) | {"seconds": time.monotonic() - begun}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if answer["code"] == PreemptedError.exit_code:  # was asked to stop, and did
            return
        gc.collect()
        _forget_peak()


def _answer(request: dict[str, str], run: Callable[[RunConfig, Path], object]) -> dict[str, Any]:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    try:
        with messages():
            run(load_config(RunConfig, Path(request["config"])), Path(request["run_dir"]))
    except PleRecError as error:
        sys.stderr.write(f"ple-rec: {error}\n")
        return {"code": error.exit_code, "message": str(error)}
    except Exception as error:  # a bug in one run; the others go on, and its log has the traceback
        traceback.print_exc()
        return {"code": _BUG, "message": f"{type(error).__name__}: {error}"}
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return {"code": 0}


def _forget_peak() -> None:
    """Let the most resident memory of the next run be its own (Linux; elsewhere it is the most of all so far)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def main() -> None:
    """Serve the process that started this one."""
    stop_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing else that is printed is an answer
    with large_imports():
        from ple_rec.analysis.compare.one_run import train_one
        from ple_rec.reports.analysis.page import write_analysis

    serve(sys.stdin, answers, partial(train_one, write_analysis=write_analysis))
    end_process(0)


if __name__ == "__main__":
    main()
