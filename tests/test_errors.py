"""Errors name options by flags on the command line and by arguments in Python, and keep both words on their way."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import ple_rec
from ple_rec.cli.app import VERBS, command_line
from ple_rec.distributed.capacity import DoesNotFitError
from ple_rec.errors import DataError, Option, UserError, as_arguments, as_flags, overrides_text


@pytest.mark.parametrize(
    ("message", "flags", "arguments"),
    [
        (
            f"pass {Option.OVERWRITE}, or give another {Option.RUN_DIR}",
            "pass --overwrite, or give another --run-dir",
            "pass overwrite=True, or give another run_dir",
        ),
        (f"{Option.AUTO_RESUME} goes on", "--auto-resume goes on", 'resume="auto" goes on'),
        (f"no {Option.SOURCE}", "no --from", "no source"),
        (f"leave {Option.DENSE.with_value('bf16')} out", "leave --dense bf16 out", 'leave dense="bf16" out'),
        (f"by {Option.TOLERANCE.with_value(3.3e-08)}", "by --tolerance 3.3e-08", "by tolerance=3.3e-08"),
        (Option.AUC_LOSS.with_value(13.0), "--auc-loss 13", "auc_loss=13"),
        (Option.DATA.with_value("a b", quoted=True), '--data "a b"', 'data="a b"'),
        (Option.CONFIG.with_value("\u00fc"), "--config \u00fc", 'config="\u00fc"'),
        (f"write {overrides_text('seed=3')}", "write --set seed=3", 'write overrides=["seed=3"]'),
        (overrides_text("a=1", "b="), "--set a=1 --set b=", 'overrides=["a=1", "b="]'),
        (overrides_text('a=["x"]'), '--set a=["x"]', 'overrides=["a=[\\"x\\"]"]'),
        (
            f"a\0b\0c\0; give another {Option.OUT}",
            r"a\x00b\x00c\x00; give another --out",
            r"a\x00b\x00c\x00; give another out",
        ),
        (f"x\0{Option.OUT}\0", r"x\x00--out\x00", r"x\x00out\x00"),
        (Option.CONFIG.with_value("a\0b"), r"--config a\x00b", r'config="a\u0000b"'),
        (overrides_text("a=\0"), r"--set a=\x00", r'overrides=["a=\u0000"]'),
        ("`train --resume`, or my --out", "`train --resume`, or my --out", "`train --resume`, or my --out"),
    ],
)
def test_each_reader_sees_its_own_word(message: str, flags: str, arguments: str) -> None:
    assert as_flags(message) == flags
    assert as_arguments(message) == arguments


def test_every_option_is_a_flag_and_an_argument() -> None:
    app = command_line()
    verbs = [app[verb] for verb in VERBS if app[verb].default_command]
    flags = {name for verb in verbs for argument in verb.assemble_argument_collection() for name in argument.names}
    calls: tuple[Callable[..., Any], ...] = (
        *(ple_rec.compare, ple_rec.daily, ple_rec.plan, ple_rec.prepare, ple_rec.publish_tables, ple_rec.train),
        *(ple_rec.Run.export, ple_rec.Run.predict),
    )
    arguments = {name for call in calls for name in inspect.signature(call).parameters}
    for option in Option:
        assert as_flags(str(option)) in flags
        assert as_arguments(str(option)).partition("=")[0] in arguments


@pytest.mark.parametrize("kind", [UserError, DataError, DoesNotFitError])
def test_an_error_of_a_worker_keeps_both_words(kind: type[UserError]) -> None:
    error = pickle.loads(pickle.dumps(kind(Option.OUT, "is there", "one is enough", f"give {Option.PARENT}")))
    assert type(error) is kind
    assert str(error) == "--out: is there; one is enough. Fix: give --parent"
    assert str(error.reworded(as_arguments)) == "out: is there; one is enough. Fix: give parent"
