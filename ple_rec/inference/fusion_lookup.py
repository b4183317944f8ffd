"""Choice of the fusion for the score of predictions: that of `--fusion`, that of the run, or exponents 1."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ple_rec.config.base import TaskKind
from ple_rec.config.fusion import FusionConfig, TaskFusionConfig
from ple_rec.config.load import load_config
from ple_rec.data.columns import Selection
from ple_rec.errors import Option, PleRecError, UserError
from ple_rec.inference.model_dir import latest
from ple_rec.ranking.fusion import check_fusion
from ple_rec.ranking.losses import FUSION_FILE
from ple_rec.storage import Location, explain_errors

# Path below a run, to which `ple-rec fuse` writes.
FUSION = "fusion/fusion.toml"


def fusion_of(run_dir: Location, file: Location | None, selection: Selection) -> tuple[FusionConfig, Location | None]:
    """Return the fusion of the score and its file; without a file every task has exponent 1, and the file is None.

    Args:
        run_dir: Directory of the run.
        file: File that `--fusion` names; None for that of the run, if it has one.
        selection: Tasks and features of the run.

    Raises:
        UserError: There is no such file, or the fusion does not fit the tasks and features of the model.
    """
    kinds: dict[str, TaskKind] = {task.name: task.kind for task in selection.tasks}
    own = run_dir / FUSION
    with explain_errors(file or own, "read", "a fusion makes the score"):
        exists = (file or own).is_file()
    if file is not None and not exists:
        fix = "give one that `ple-rec fuse` has written"
        raise UserError(Option.FUSION, f"{file} is no file", "it is a fusion.toml", fix)
    if not exists:
        return _unfused(kinds), None
    file = file or own
    fusion = load_config(FusionConfig, file)
    check_fusion(fusion, kinds, {feature.name: None for feature in selection.dense}, str(file))
    return fusion, file


def dropped_fusion(model_dir: Location) -> str:
    """Return a warning if an export without a fusion replaces a version that has one; else an empty text.

    Args:
        model_dir: Folder of the model; its file `latest` names the version that is served until now.
    """
    # A model without a readable version needs no warning.
    with suppress(PleRecError):
        file = latest(model_dir) / FUSION_FILE
        before = load_config(FusionConfig, file)
        if before != _unfused(before.tasks):
            return (
                f"warning: {file.parent.name}, the latest so far, has a fusion of its own; this version has every "
                f"exponent 1. To keep that fusion, export with --fusion {file}; `ple-rec fuse` searches a new one"
            )
    return ""


def _unfused(tasks: Iterable[str]) -> FusionConfig:
    return FusionConfig(tasks={name: TaskFusionConfig(exponent=1.0) for name in tasks})
