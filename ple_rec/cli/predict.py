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
--data is a dataset directory (its schema.toml tells), or raw logs: a Parquet or CSV file, a folder or a glob. Raw logs
go through the expressions of the prep.toml of the run's dataset, and through its vocabularies; labels are not needed.

examples:
  ple-rec predict tencent-ple --out predictions
  ple-rec predict tencent-ple --data data/feed-9 --split valid test --out predictions --ids group video_id
  ple-rec predict tencent-ple --data logs/day=9 --from logs --out predictions

The same command goes on where it was stopped. docs/predict.md explains all of it.
""",
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(PredictOptions):
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
        str | None, flag("of raw logs: where the files of side tables lie; default: here", "DIR", name="--from")
    ]
    checkpoint: Checkpoint
    fusion: Annotated[
        Location | None, place("fusion of the score; default: RUN/fusion/fusion.toml, else exponents 1", "FILE")
    ]
    ids: Annotated[
        tuple[str, ...] | None,
        flag(
            "columns of the input to carry along, as it has them; default: the group, and features named like a "
            "user or video",
            "[COLUMN ...]",
            consume_multiple=True,
            converter=last_list,
        ),
    ]
    all_rows: Annotated[bool, flag("of raw logs: those that log.where leaves out, too")]
    batch_size: Annotated[int | None, flag("default: the run's, which gives evaluation's very bits", "N", positive)]
    part_rows: Annotated[int, flag("rows of a part; default 1048576", "N", positive)]
    memory: Annotated[int, flag("memory to read raw logs; default 2GiB", "SIZE", size)]
    overwrite: Annotated[bool, flag("replace predictions of something else")]
    overrides: Annotated[
        EvaluationSet,
        flag("override a configuration key that an evaluation may change, e.g. runtime.device=cpu (repeatable)"),
    ]
    json: Annotated[bool, flag("print JSON instead of text")] = False


@app.default
def predict(run: Run, /, *, options: Options) -> int:
    """Predict every row of an input.

    Ids, every task's prediction and one fused score (Eq. 1) as Parquet parts in --out, in the order of the input.
    Memory does not grow with the input.
    """
    require_torch()
    from ple_rec.inference.model_dir import check_no_model
    from ple_rec.inference.predict.text import format_summary
    from ple_rec.runs.find import named_run
    from ple_rec.text.plain import json_text

    check_no_model(run)
    done = predict_run(named_run(run), options)
    if options.json:
        show(
            json_text({**done.summary, "out": str(options.out), "fused_by": done.fused_by, "already_there": done.again})
        )
        return 0
    text = format_summary(
        done.summary, options.out, done.fused_by, described=done.described, input_rows=done.input_rows, again=done.again
    )
    show(text)
    return 0


def check(run: str, /, *, options: Options) -> None:
    """Refuse what the verb would before it opens the run, where torch need not load.

    Raises:
        UserError: no run of that name, an override that is wrong, or flags that do not go together.
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
