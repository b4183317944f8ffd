"""One day of a chain of days: `daily` and `Day`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ple_rec.api.arguments import (
    Overrides,
    PathLike,
    check_text,
    config_source,
    errors_name_arguments,
    override_texts,
)
from ple_rec.api.html import block, display_path, line, table
from ple_rec.api.torch_state import preserve_torch_state
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.storage import Location
from ple_rec.text.messages import print_messages

if TYPE_CHECKING:
    from ple_rec.config.daily import DailyConfig
    from ple_rec.days.run import Train


class Day:
    """Day of a chain and what became of it. `daily` makes it.

    Attributes:
        results: Content of the day's record: rows, tables, differences to the version that was served, seconds.
    """

    results: Mapping[str, Any]

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.results = results

    @property
    def day(self) -> str:
        """Date of the day, YYYY-MM-DD."""
        return str(self.results["day"])

    @property
    def verdict(self) -> str:
        """Verdict: "published", or "refused" if the gate refused the model, so that the version before stays served."""
        return str(self.results["verdict"])

    @property
    def version(self) -> str | None:
        """Folder of the published version; None after a refusal."""
        return None if self.results["version"] is None else str(self.results["version"])

    def __repr__(self) -> str:
        """Return the day and its verdict."""
        return f"Day({self.day}: {self.verdict})"

    def _repr_html_(self) -> str:
        from ple_rec.days.record import DayRecord, difference_text

        record = DayRecord.from_json(self.results)
        rows = [[difference_text(each)] for each in record.differences]
        head = line(f"{self.day}: {self.verdict}", display_path(Path(record.version or record.run)), *record.reasons)
        return block(head, *([table([f"against {record.compared_with}"], rows)] if rows else []))


@errors_name_arguments
def daily(
    config: PathLike | Mapping[str, Any] | DailyConfig,
    *,
    day: str | None = None,
    new_chain: bool = False,
    overrides: Overrides = (),
) -> Day:
    """Prepare, train, check and publish one day of a chain, as `ple-rec daily` does.

    A call that was stopped goes on if it is repeated. After a refusal by the gate nothing is published, and `verdict`
    of the result is "refused".

    Args:
        config: Path of a TOML file, its content as a dict, or a `DailyConfig`; docs/daily.md has its keys. Paths in a
            dict are relative to the working directory.
        day: Day to work on, "2024-05-09"; None for the one that is not finished, or else the next one.
        new_chain: True to let the first version of the chain replace a served version of another chain.
        overrides: Changes of the configuration: `{"gate.min_positives": 50}`, or texts "key=value".

    Raises:
        UserError: The input is invalid, or the chain, the served version and the day do not fit each other.
        DataError: The raw files break a rule, or something is damaged.
        DivergedError: A loss, a gradient or a weight is not finite.
        PreemptedError: A signal asked the process to stop, and it has saved the run.
    """
    if day is not None:
        check_text("day", day)
        try:
            chosen = date.fromisoformat(day)
        except ValueError:
            raise UserError("day", f"got {day!r}", "a day is a date", 'write it as "YYYY-MM-DD"') from None
    texts = override_texts(overrides)
    with preserve_torch_state(), print_messages("stderr"):
        from ple_rec.config.daily import DAILY_CONFIGS, DailyConfig
        from ple_rec.config.load import load_config
        from ple_rec.days.run import DayOptions, run_day

        content = config.model_dump(mode="json", exclude_none=True) if isinstance(config, DailyConfig) else config
        source = config_source(content, DailyConfig, DAILY_CONFIGS)
        chain = load_config(DailyConfig, source, texts, kind=DAILY_CONFIGS)
        folder = Path() if isinstance(source, Mapping) else Path(str(source)).parent
        options = DayOptions(chain, folder, None if day is None else chosen, new_chain)
        return Day(run_day(options, train_day(chain.train.ranks)).to_json())


def train_day(ranks: int) -> Train:
    """Return the function that trains or resumes the run of a day.

    Args:
        ranks: Number of ranks on this host; several are processes of their own.
    """

    def train(config: RunConfig, run_dir: Location, init_from: tuple[Location, str] | None) -> None:
        from ple_rec.api.training import start_training

        def start_ranks() -> None:
            from ple_rec.api.ranks import train_on_ranks

            flags = ["--auto-resume", *([] if init_from is None else ["--init-from", f"{init_from[0]}:{init_from[1]}"])]
            train_on_ranks(config, run_dir, ranks, flags)

        # The result of the day is printed on standard output, so the lines of the ranks go to standard error.
        with redirect_stdout(sys.stderr):
            start_training(
                config,
                run_dir,
                ranks=ranks,
                start_ranks=start_ranks,
                resume="auto",
                overwrite=False,
                init_from=init_from,
                plan=None,
                profile=False,
            )

    return train
