"""`ple-rec predict`: flags, input checks and output; `ple_rec.api.predictions` writes the predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ple_rec.api.predictions import PredictOptions, predict_run
from ple_rec.cli.console import require_torch, show
from ple_rec.cli.options import (
    Checkpoint,
    EvaluationOverrideFlags,
    RunName,
    byte_size,
    flag,
    last_list,
    location_flag,
    positive_int,
    verb_app,
)
from ple_rec.errors import UserError
from ple_rec.storage import Location, explain_errors, location

app = verb_app(
    "predict",
    """\
--data is a dataset directory, which has a schema.toml, or raw logs: a Parquet or CSV file, a folder or a glob. Raw logs
are encoded by the expressions and vocabularies of the run's dataset; they need no labels.

examples:
  ple-rec predict tencent-ple --out predictions
  ple-rec predict tencent-ple --data data/feed-9 --split valid test --out predictions --ids group video_id
  ple-rec predict tencent-ple --data logs/day=9 --from logs --out predictions

The same command resumes where it was stopped. docs/predict.md explains all of it.
""",
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PredictFlags(PredictOptions):
    """Flags of `ple-rec predict`; those without a default here have the default of the API."""

    out: Annotated[Location, location_flag("directory to write, or an address, such as s3://...", "DIR")]
    data: Annotated[str | None, flag("dataset directory or raw logs; default: the run's dataset", "PATH")]
    splits: Annotated[
        tuple[Literal["train", "valid", "test"], ...],
        flag(
            "splits of a dataset: train, valid, test; default: test",
            "SPLIT [SPLIT ...]",
            name="--split",
            consume_multiple=1,
            converter=last_list,
        ),
    ]
    source: Annotated[
        str | None, flag("folder of side tables' files, for raw logs; default: here", "DIR", name="--from")
    ]
    checkpoint: Checkpoint
    fusion: Annotated[
        Location | None, location_flag("fusion of the score; default: RUN/fusion/fusion.toml, else exponents 1", "FILE")
    ]
    ids: Annotated[
        tuple[str, ...] | None,
        flag(
            "columns of the input to copy, after the group; default: features named like a user or video",
            "[COLUMN ...]",
            consume_multiple=True,
            converter=last_list,
        ),
    ]
    no_group: Annotated[bool, flag("do not copy the group, such as the raw id of the user")]
    all_rows: Annotated[bool, flag("for raw logs: also rows that log.where leaves out")]
    batch_size: Annotated[
        int | None, flag("rows of a batch; default: as in the run, for the same bits as evaluation", "N", positive_int)
    ]
    part_rows: Annotated[int, flag("rows of a part; default 1048576", "N", positive_int)]
    memory: Annotated[int, flag("memory for reading raw logs; default 2GiB", "SIZE", byte_size)]
    overwrite: Annotated[bool, flag("replace existing predictions of another input")]
    overrides: Annotated[
        EvaluationOverrideFlags,
        flag("override a configuration key that an evaluation may change, e.g. runtime.device=cpu (repeatable)"),
    ]
    json: Annotated[bool, flag("print JSON instead of text")] = False


@app.default
def predict(run: RunName, /, *, options: PredictFlags) -> int:
    """Predict every row of an input.

    Writes ids, the prediction of each task and one fused score (Eq. 1) as Parquet parts to --out, in the order of the
    input. Memory does not grow with the input.
    """
    require_torch()
    from ple_rec.inference.model_dir import refuse_exported_model
    from ple_rec.inference.predict.text import format_summary
    from ple_rec.runs.find import find_run
    from ple_rec.text.messages import print_messages
    from ple_rec.text.plain import json_text

    refuse_exported_model(run)
    with print_messages("stderr"):
        result = predict_run(find_run(run), options)
    if options.json:
        show(
            json_text(
                {
                    **result.summary,
                    "out": str(options.out),
                    "fused_by": result.fusion_text,
                    "already_there": result.existed_before,
                }
            )
        )
        return 0
    text = format_summary(
        result.summary,
        options.out,
        result.fusion_text,
        input_description=result.input_description,
        input_rows=result.input_rows,
        is_repeated=result.existed_before,
    )
    show(text)
    return 0


def check(run: str, /, *, options: PredictFlags) -> None:
    """Check, without torch, what can be checked before the run is opened.

    Raises:
        UserError: The run does not exist, an override is wrong, or flags exclude each other.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig

    given_dir = location(run)
    with explain_errors(given_dir, "read", "a run lies there"):
        run_dirs = (given_dir, Path("runs") / run)
        file = next((path / "config.toml" for path in run_dirs if (path / "config.toml").is_file()), None)
    if file is None:
        raise UserError(run, "no such run", "a run directory has a config.toml", "`ple-rec runs` lists them")
    load_config(RunConfig, file, options.overrides)
    options.check()
