"""`ple-rec predict`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ple_rec.api.predictions import MEMORY, PART_ROWS, PredictOptions, predict_run
from ple_rec.cli.console import require_torch, show
from ple_rec.cli.lists import last_list
from ple_rec.cli.options import Checkpoint, EvaluationSet, Run, flag, positive, size
from ple_rec.cli.verb import verb
from ple_rec.errors import UserError

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
@dataclass(frozen=True)
class Options:
    """Flags of `ple-rec predict`."""

    _: KW_ONLY
    out: Annotated[Path, flag("directory to write", "DIR")]
    data: Annotated[str | None, flag("dataset directory or raw logs; default: the run's dataset", "PATH")] = None
    split: Annotated[
        tuple[Literal["train", "valid", "test"], ...] | None,
        flag(
            "splits of a dataset: train, valid, test; default: test",
            "SPLIT [SPLIT ...]",
            consume_multiple=1,
            converter=last_list,
        ),
    ] = None
    source: Annotated[
        str | None, flag("of raw logs: where the files of side tables lie; default: here", "DIR", name="--from")
    ] = None
    checkpoint: Checkpoint = "best"
    fusion: Annotated[
        Path | None, flag("fusion of the score; default: RUN/fusion/fusion.toml, else exponents 1", "FILE")
    ] = None
    ids: Annotated[
        tuple[str, ...] | None,
        flag(
            "columns of the input to carry along, as it has them; default: the group, and features named like a "
            "user or video",
            "[COLUMN ...]",
            consume_multiple=True,
            converter=last_list,
        ),
    ] = None
    all_rows: Annotated[bool, flag("of raw logs: those that log.where leaves out, too")] = False
    batch_size: Annotated[int | None, flag("default: the run's, which gives evaluation's very bits", "N", positive)] = (
        None
    )
    part_rows: Annotated[int, flag("rows of a part; default 1048576", "N", positive)] = PART_ROWS
    memory: Annotated[int, flag("memory to read raw logs; default 2GiB", "SIZE", size)] = MEMORY
    overwrite: Annotated[bool, flag("replace predictions of something else")] = False
    json: Annotated[bool, flag("print JSON instead of text")] = False
    overrides: Annotated[
        EvaluationSet,
        flag("override a configuration key that an evaluation may change, e.g. runtime.device=cpu (repeatable)"),
    ] = ()


@app.default
def predict(run: Run, /, *, options: Options) -> int:
    """Predict every row of an input.

    Ids, every task's prediction and one fused score (Eq. 1) as Parquet parts in --out, in the order of the input.
    Memory does not grow with the input.
    """
    require_torch()
    from ple_rec.analysis.find_runs import named_run
    from ple_rec.analysis.plain import json_text
    from ple_rec.serve.model_dir import check_no_model
    from ple_rec.serve.predict.text import format_summary

    check_no_model(run)
    done = predict_run(named_run(run), _prediction(options))
    if options.json:
        show(json_text({**done.summary, "out": str(options.out), "already_there": done.again}))
        return 0
    text = format_summary(
        done.summary, options.out, done.fused_by, told=done.described, input_rows=done.input_rows, again=done.again
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

    places = (Path(run), Path("runs") / run)
    file = next((path / "config.toml" for path in places if (path / "config.toml").is_file()), None)
    if file is None:
        raise UserError(run, "no such run", "a run directory has a config.toml", "`ple-rec runs` lists them")
    load_config(RunConfig, file, options.overrides)
    _prediction(options).check()


def _prediction(options: Options) -> PredictOptions:
    return PredictOptions(
        out=options.out,
        data=options.data,
        splits=options.split or (),
        source=options.source,
        checkpoint=options.checkpoint,
        fusion=options.fusion,
        ids=options.ids,
        all_rows=options.all_rows,
        batch_size=options.batch_size,
        part_rows=options.part_rows,
        memory=options.memory,
        overwrite=options.overwrite,
        overrides=options.overrides,
    )
