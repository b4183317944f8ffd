"""Choice of the fusion, the formula that combines the predictions of all tasks to one score.

A fusion is a product of factors with exponents; the factors are the predictions, and in some fusions an item's length.
`predict` and `export` call `find_fusion`. It takes the file of `--fusion`, else the file that `ple-rec fuse` wrote
in the run's directory, else exponent 1 for every task.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ple_rec.config.base import TaskKind
from ple_rec.config.fusion import FusionConfig, TaskFusionConfig
from ple_rec.config.load import load_config
from ple_rec.data.columns import Selection
from ple_rec.errors import Option, PleRecError, UserError
from ple_rec.inference.model_dir import latest_version
from ple_rec.ranking.fusion import check_fusion
from ple_rec.ranking.losses import FUSION_FILE
from ple_rec.storage import Location, explain_errors

# File that `ple-rec fuse` writes, by its path in the directory of a run.
RUN_FUSION_FILE = "fusion/fusion.toml"


def find_fusion(run_dir: Location, file: Location | None, selection: Selection) -> tuple[FusionConfig, Location | None]:
    """Return the fusion and its file; if there is no file, every task has exponent 1 and the file is None.

    Args:
        run_dir: Directory of the run.
        file: File that `--fusion` names; None for the file of the run, if it has one.
        selection: Tasks and features of the run.

    Raises:
        UserError: The file of `--fusion` does not exist, or the fusion cannot be read or does not fit the tasks and
            features of the run.
    """
    kinds: dict[str, TaskKind] = {task.name: task.kind for task in selection.tasks}
    run_file = run_dir / RUN_FUSION_FILE
    with explain_errors(file or run_file, "read", "a fusion combines the predictions to the score"):
        exists = (file or run_file).is_file()
    if file is not None and not exists:
        fix = "give a file that `ple-rec fuse` has written"
        raise UserError(Option.FUSION, f"{file} is no file", "the option names a fusion.toml", fix)
    if not exists:
        return _unit_exponents(kinds), None
    file = file or run_file
    fusion = load_config(FusionConfig, file)
    check_fusion(fusion, kinds, {feature.name: None for feature in selection.dense}, str(file))
    return fusion, file


def dropped_fusion_warning(model_dir: Location) -> str:
    """Return a warning that the new version, which has no fusion, replaces one that has; else an empty text.

    A version has no fusion if every exponent is 1.

    Args:
        model_dir: Folder of the model; its file `latest` still names the version before the new one.
    """
    # If there is no version before, or it cannot be read, no warning is needed.
    with suppress(PleRecError):
        file = latest_version(model_dir) / FUSION_FILE
        before = load_config(FusionConfig, file)
        if before != _unit_exponents(before.tasks):
            return (
                f"warning: {file.parent.name}, the latest version so far, has a fusion; in this version every exponent "
                f"is 1. To keep that fusion, export with --fusion {file}; `ple-rec fuse` searches for a new one"
            )
    return ""


def _unit_exponents(tasks: Iterable[str]) -> FusionConfig:
    return FusionConfig(tasks={name: TaskFusionConfig(exponent=1.0) for name in tasks})
