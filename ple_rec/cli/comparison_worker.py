"""Worker process of `ple-rec compare`: trains and analyses one run after another, so that torch is imported once.

`ple_rec/analysis/compare/workers.py` starts `python -m ple_rec.cli.comparison_worker`. Each line of standard input is a
request for a run, and each line of standard output the answer, both JSON:

    {"config": FILE, "run_dir": DIR, "log": FILE}
    -> {"code": 0, "seconds": S}, or for a run that failed {"code": N, "message": TEXT, "seconds": S}

The code is the exit code that `ple-rec train` would have. Output of the training goes to the log. The process ends at
the end of its input, or when a run was asked to stop.
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
from ple_rec.runtime.versions import suspend_garbage_collection
from ple_rec.text.messages import print_messages

_BUG_EXIT_CODE = 1


def answer_requests(requests: TextIO, answers: TextIO, train: Callable[[RunConfig, Path], object]) -> None:
    """Train the run of each request, and write an answer when the run has ended; return after a run that was stopped.

    Args:
        requests: Stream with a request in each line.
        answers: Stream that receives a line for each request.
        train: Function that trains and analyses a configuration into a run directory.
    """
    for line in requests:
        request = json.loads(line)
        started_at = time.monotonic()
        answer = _answer(request, train) | {"seconds": time.monotonic() - started_at}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if answer["code"] == PreemptedError.exit_code:
            return
        gc.collect()  # The model of this run goes before the next one begins.
        _reset_peak_memory()


def _answer(request: dict[str, str], train: Callable[[RunConfig, Path], object]) -> dict[str, Any]:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):  # Standard output and error, to which native code writes, too.
        os.dup2(log, descriptor)
    os.close(log)
    try:
        with print_messages():
            train(load_config(RunConfig, Path(request["config"])), Path(request["run_dir"]))
    except PleRecError as error:
        sys.stderr.write(f"ple-rec: {error}\n")
        return {"code": error.exit_code, "message": str(error)}
    except Exception as error:  # A bug in one run must not end the others; its log has the traceback.
        traceback.print_exc()
        return {"code": _BUG_EXIT_CODE, "message": f"{type(error).__name__}: {error}"}
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return {"code": 0}


def _reset_peak_memory() -> None:
    """Reset the peak of resident memory, so that each run measures its own. Only Linux can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def main() -> None:
    """Answer the requests of the process that started this one."""
    stop_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Everything else that is printed goes to standard error.
    with suspend_garbage_collection():
        from ple_rec.analysis.compare.one_run import train_one
        from ple_rec.reports.analysis.page import write_analysis

    answer_requests(sys.stdin, answers, partial(train_one, write_analysis=write_analysis))
    end_process(0)


if __name__ == "__main__":
    main()
