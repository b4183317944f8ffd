"""`ple-rec repeat`: flags and output; `ple_rec.analysis.repeat` trains the seeds, each by a `ple-rec train` process."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ple_rec.cli.console import log, require_torch
from ple_rec.cli.options import OverrideFlags, Ranks, flag, positive_int, verb_app
from ple_rec.config.choices import recipe_names
from ple_rec.runtime.exits import SOME_FAILED

app = verb_app("repeat")


@Parameter(name="*")
@dataclass(frozen=True)
class RepeatFlags:
    """Flags of `ple-rec repeat`."""

    _: KW_ONLY
    config: Annotated[
        tuple[str, ...], flag("configuration or recipe (repeatable)", "FILE|NAME", completer=lambda _: recipe_names())
    ]
    overrides: OverrideFlags = ()
    seeds: Annotated[int, flag("number of seeds; default 5", "N", positive_int)] = 5
    runs: Annotated[Path, flag("folder of the runs; default: runs/repeat", "DIR")] = Path("runs/repeat")
    overwrite: Annotated[
        bool,
        flag("replace existing runs of another configuration or dataset; finished runs of this one are still reused"),
    ] = False
    ranks: Ranks = 1


@app.default
def repeat(*, options: RepeatFlags) -> int:
    """Train each configuration with seeds 0 to N-1.

    Prints mean and sample standard deviation on the test split. Runs lie in DIR/<name>/seed-<n>. Finished runs of the
    same configuration and dataset are reused; unfinished ones start again.
    """
    require_torch()
    from ple_rec.analysis.repeat import format_summaries
    from ple_rec.analysis.repeat import repeat as repeat_runs
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig
    from ple_rec.runtime.ranks import run_verb

    def start(file: Path, run_dir: Path) -> int:
        # `repeat_runs` refuses runs that may not be replaced before it starts any; here, unfinished ones start again.
        flags = ["--config", str(file), "--run-dir", str(run_dir), "--overwrite", "--ranks", str(options.ranks)]
        return run_verb(["train", *flags])

    configs = [load_config(RunConfig, source, options.overrides) for source in options.config]
    summaries, failed = repeat_runs(configs, range(options.seeds), options.runs, start, overwrite=options.overwrite)
    print(f"\n{format_summaries(summaries)}")
    if failed:
        log(f"ple-rec: failed: {', '.join(failed)}; the other runs are kept, run again to retry the failed ones")
    return SOME_FAILED if failed else 0
