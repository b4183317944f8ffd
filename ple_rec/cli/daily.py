"""`ple-rec daily`: flags and exit codes; `ple_rec.days` does the steps of the day."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ple_rec.cli.console import require_torch, show, show_keys
from ple_rec.cli.options import HelpConfig, OverrideFlags, flag, verb_app
from ple_rec.errors import UserError
from ple_rec.runtime.exits import GATE_REFUSED

if TYPE_CHECKING:
    from ple_rec.days.run import DayOptions

app = verb_app(
    "daily",
    """\
The first call prepares the configuration itself, trains from random weights and publishes a whole version. Each later
call appends a day. The smallest daily.toml:

  folder = "daily"                  # datasets, runs and records of the chain
  model = "models/feed"             # what `ple-rec serve models/feed` serves
  [prep]
  config = "feed.toml"
  source = "logs"
  day_overrides = ['log.files=["log/day={day}"]']
  [train]
  config = "feed_ple.toml"

exit codes: 0 published, or published before; 6 refused by the gate, so that the served version stays; others as for
            every verb. A call that was stopped goes on if it is repeated.

examples:
  ple-rec daily --config daily.toml
  ple-rec daily --config daily.toml --day 2024-05-09 --json

docs/daily.md explains all of it
""",
    usage="ple-rec daily --config FILE [OPTIONS]",
)


def _parse_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"got {text!r}; write a day as YYYY-MM-DD") from None


@Parameter(name="*")
@dataclass(frozen=True)
class DailyFlags:
    """Flags of `ple-rec daily`."""

    _: KW_ONLY
    config: Annotated[str | None, flag("TOML file of the chain", "FILE")] = None
    day: Annotated[
        date | None, flag("day to work on; default: the one that is not finished, else the next", "DAY", _parse_date)
    ] = None
    new_chain: Annotated[
        bool, flag("let the first version of this chain replace a served version of another chain")
    ] = False
    overrides: Annotated[
        OverrideFlags, flag("override a key of the file, e.g. gate.min_positives=50 (repeatable)")
    ] = ()
    json: Annotated[bool, flag("print the record of the day as JSON instead of a summary")] = False
    help_config: HelpConfig = False

    def read(self) -> DayOptions:
        """Return the options of the day.

        Raises:
            UserError: The configuration is missing or wrong.
        """
        from ple_rec.config.daily import DAILY_CONFIGS, DailyConfig
        from ple_rec.config.load import load_config
        from ple_rec.days.run import DayOptions

        if self.config is None:
            raise UserError("--config", "missing", "it names the TOML file of a chain", "see `ple-rec daily --help`")
        config = load_config(DailyConfig, self.config, self.overrides, kind=DAILY_CONFIGS)
        return DayOptions(config, Path(self.config).parent, self.day, self.new_chain)


@app.default
def daily(*, options: DailyFlags = DailyFlags()) -> int:
    """Prepare, train, check and publish one day of a chain.

    A dataset of the day is appended, a run goes on from the run of the served version, and both versions score the
    held-out rows of the day. If the new one is worse by more than a declared margin, nothing is published.
    """
    if options.help_config:
        from ple_rec.config.daily import DailyConfig

        show_keys(DailyConfig)
        return 0
    require_torch()
    from ple_rec.api.daily import train_day
    from ple_rec.days.run import run_day
    from ple_rec.text.messages import print_messages
    from ple_rec.text.plain import json_text

    day_options = options.read()
    ranks = day_options.config.train.ranks
    with print_messages("stderr"):
        record = run_day(day_options, train_day(ranks))
    show(json_text(record.to_json()) if options.json else str(record))
    return GATE_REFUSED if record.verdict == "refused" else 0
