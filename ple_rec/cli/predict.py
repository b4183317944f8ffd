"""`ple-rec predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ple_rec.api.predictions import PredictOptions, predict_run
from ple_rec.cli.console import require_torch, show
from ple_rec.cli.options import Checkpoint, EvaluationSet, Run, flag, last_list, place, positive, size, verb
from ple_rec.errors import UserError
from ple_rec.storage import Location, explain_errors, location

app = verb(
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
    """Flags of `ple-rec predict`; their defaults are those of the API."""

    out: Annotated[Location, place("directory to write, or an address, such as s3://...", "DIR")]
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
        Location | None, place("fusion of the score; default: RUN/fusion/fusion.toml, else exponents 1", "FILE")
    ]
    ids: Annotated[
        tuple[str, ...] | None,
        flag(
            "columns of the input to copy; default: the group, and features named like a user or video",
            "[COLUMN ...]",
            consume_multiple=True,
            converter=last_list,
        ),
    ]
    all_rows: Annotated[bool, flag("for raw logs: also rows that log.where leaves out")]
    batch_size: Annotated[
        int | None, flag("rows of a batch; default: as in the run, for the same bits as evaluation", "N", positive)
    ]
    part_rows: Annotated[int, flag("rows of a part; default 1048576", "N", positive)]
    memory: Annotated[int, flag("memory to read raw logs; default 2GiB", "SIZE", size)]
    overwrite: Annotated[bool, flag("replace existing predictions of another input")]
    overrides: Annotated[
        EvaluationSet,
        flag("override a configuration key that an evaluation may change, e.g. runtime.device=cpu (repeatable)"),
    ]
    json: Annotated[bool, flag("print JSON instead of text")] = False


@app.default
def predict(run: Run, /, *, options: PredictFlags) -> int:
    """Predict every row of an input.

    Writes ids, the prediction of each task and one fused score (Eq. 1) as Parquet parts to --out, in the order of the
    input. Memory does not grow with the input.
    """
    require_torch()
    from ple_rec.inference.model_dir import check_no_model
    from ple_rec.inference.predict.text import format_summary
    from ple_rec.runs.find import named_run
    from ple_rec.text.plain import json_text

    check_no_model(run)
    result = predict_run(named_run(run), options)
    if options.json:
        show(
            json_text(
                {**result.summary, "out": str(options.out), "fused_by": result.fused_by, "already_there": result.again}
            )
        )
        return 0
    text = format_summary(
        result.summary,
        options.out,
        result.fused_by,
        described=result.described,
        input_rows=result.input_rows,
        again=result.again,
    )
    show(text)
    return 0


def check(run: str, /, *, options: PredictFlags) -> None:
    """Refuse input that the verb would refuse before it opens the run, without torch.

    Raises:
        UserError: The run does not exist, an override is wrong, or flags exclude each other.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig

    where = location(run)
    with explain_errors(where, "read", "a run lies there"):
        places = (where, Path("runs") / run)
        file = next((path / "config.toml" for path in places if (path / "config.toml").is_file()), None)
    if file is None:
        raise UserError(run, "no such run", "a run directory has a config.toml", "`ple-rec runs` lists them")
    load_config(RunConfig, file, options.overrides)
    options.check()
