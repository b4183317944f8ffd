"""Which fusion makes the score of a run's predictions: one that was given, the run's own, or none."""

from __future__ import annotations

from pathlib import Path

from ple_rec.config.base import TaskKind
from ple_rec.config.fusion import FusionConfig, TaskFusionConfig
from ple_rec.config.load import load_config
from ple_rec.data.columns import Selection
from ple_rec.errors import UserError
from ple_rec.ranking.fusion import check_fusion

FUSION = Path("fusion") / "fusion.toml"  # of a run: where `ple-rec fuse` puts it


def fusion_of(run_dir: Path, given: Path | None, selection: Selection) -> tuple[FusionConfig, Path | None]:
    """The fusion that makes the score, and its file; None: every task with exponent 1.

    Args:
        run_dir: Of the run.
        given: Of `--fusion`; None: the run's own, where it has one.
        selection: What the run reads.

    Raises:
        UserError: no such file, or a fusion that the model cannot have.
    """
    kinds: dict[str, TaskKind] = {task.name: task.kind for task in selection.tasks}
    file = given if given is not None else run_dir / FUSION
    if given is not None and not given.is_file():
        fix = "give one that `ple-rec fuse` has written"
        raise UserError("--fusion", f"{given} is no file", "it is a fusion.toml", fix)
    if not file.is_file():
        return FusionConfig(tasks={name: TaskFusionConfig(exponent=1.0) for name in kinds}), None
    fusion = load_config(FusionConfig, file)
    check_fusion(fusion, kinds, {feature.name: None for feature in selection.dense}, str(file))
    return fusion, file
