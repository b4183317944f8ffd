"""Render measured results, each of which stands once in docs/results, into README.md and docs/*.md.

    python -m benchmarks.results                  # rewrites the pages that show a result, and then checks them
    python -m benchmarks.results --check          # only checks: fails if a page differs from the results, and names it
    COMMAND | python -m benchmarks.results --entry COMMAND    # prints what COMMAND printed as a new result

A file such as `docs/results/speed.json` holds results by name. A page shows the result `dense` of that file between two
comments. The command writes the values between them, and the conditions of the measurement below the values:

    <!-- results: speed.dense -->
    <!-- end -->

Values that are a list of records become a table whose headings are the keys of the first record. A list of texts
becomes a block of output. For any other form, or for several results, the comment names a Jinja template, here
`docs/results/headline.j2`. A template sees the values of these results as the list `results`, and those of every other
result by file and name, as in `speed.dense`:

    <!-- results: speed.dense speed.tables as headline -->
    <!-- end -->

Sentences of a page that repeat figures are in `docs/results/sentences.toml`, as templates by page. They are not written
into the page, but the check looks for them there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter

from ple_rec.text.tables import align_columns

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = Path("docs", "results")
_BLOCK = re.compile(r"(<!-- results: ([\w. ]+?)(?: as (\w+))? -->\n).*?<!-- end -->", re.DOTALL)


class Measurement(BaseModel):
    """Measured result with the conditions of its measurement.

    Attributes:
        command: Command that repeats the measurement; several are separated by newlines.
        commit: Revision that was measured, such as `ac250bc`; "ac250bc or before" if only the revision that recorded
            the figures is known.
        date: Day of the measurement, such as `2026-11-28`.
        machine: Processor or GPU, and how many cores or devices.
        conditions: Other circumstances that a reader has to know, such as "five turns"; empty if there are none.
        values: Measured values, in any form that JSON can hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    command: str
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{7,40}( or before)?$")]
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]
    machine: str
    conditions: str = ""
    values: Any

    @property
    def caption(self) -> str:
        """Conditions of the measurement as a line of Markdown."""
        commands = ", ".join(f"`{line}`" for line in self.command.splitlines())
        conditions = f"; {self.conditions}" if self.conditions else ""
        return f"<sub>{commands} at {self.commit}, {self.date}, {self.machine}{conditions}</sub>"


def number(value: float, spec: str) -> str:
    """Format a number without the zero before the point: `.9562`, `+.00033`."""
    return re.sub(r"^([+-]?)0(?=\.)", r"\1", format(value, spec))


def mean_sd(estimate: Mapping[str, float], digits: int = 4) -> str:
    """Format a mean and its standard deviation over seeds: `.9562 ± .0003`."""
    return " ± ".join(number(estimate[key], f".{digits}f") for key in ("mean", "sd"))


def spread(turns: Mapping[str, float], spec: str = ",") -> str:
    """Format the median of several turns, then least and most: `9,216 (8,386 - 9,870)`."""
    median, least, most = (number(turns[key], spec) for key in ("median", "least", "most"))
    return f"{median} ({least} - {most})"


def interval(bounds: Sequence[float], spec: str = "+.5f") -> str:
    """Format an interval: `+.00049 to +.00069`."""
    low, high = (number(bound, spec) for bound in bounds)
    return f"{low} to {high}"


def text_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as columns of plain text below their keys."""
    return "\n".join(
        align_columns([list(records[0]), *([str(cell) for cell in record.values()] for record in records)])
    )


def markdown_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as a table of Markdown below their keys."""
    rows = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in record.values()] for record in records]
    lines = ["".join(f"| {cell} " if cell else "| " for cell in row) + "|" for row in [list(records[0]), *rows]]
    return "\n".join([lines[0], "|---" * len(records[0]) + "|", *lines[1:]])


class Results:
    """Results of a repository and the pages that show them.

    Args:
        repository: Folder of README.md and docs.

    Attributes:
        by_name: Results by file and name in one text, such as `speed.dense`.
        values: Values of the results, by file and then by name.
        pages: Paths of the pages that may show results.
        sentences: Templates of the sentences that repeat figures, by path of the page.
    """

    def __init__(self, repository: Path) -> None:
        folder, file_type = repository / FOLDER, TypeAdapter(dict[str, Measurement])
        by_file = {file.stem: file_type.validate_json(file.read_bytes()) for file in sorted(folder.glob("*.json"))}
        self.repository = repository
        self.by_name = {f"{stem}.{name}": result for stem, named in by_file.items() for name, result in named.items()}
        self.values = {stem: {name: r.values for name, r in named.items()} for stem, named in by_file.items()}
        self.pages = [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]
        self.sentences: dict[str, list[str]] = tomllib.loads((folder / "sentences.toml").read_text(encoding="utf-8"))
        self._environment = Environment(
            loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._environment.filters |= {"number": number, "mean_sd": mean_sd, "spread": spread, "interval": interval}
        self._environment.globals |= {"text_table": text_table, "markdown_table": markdown_table}
        self._environment.globals |= self.values

    def render(self, text: str) -> str:
        """Return the text of a page with its results filled in."""
        return _BLOCK.sub(self._block, text)

    def _block(self, match: re.Match[str]) -> str:
        opening, names, template = match.groups()
        results = [self.by_name[name] for name in names.split()]
        values = [result.values for result in results]
        if template:
            body = self._environment.get_template(f"{template}.j2").render(results=values).strip()
        elif len(values) > 1 or not isinstance(values[0], list):
            raise ValueError(
                f"{names}: only one list is shown without a template; name one: `results: {names} as NAME`"
            )
        elif isinstance(values[0][0], str):
            body = "\n".join(["```text", *values[0], "```"])
        else:
            body = markdown_table(values[0])
        captions = "<br>\n".join(dict.fromkeys(result.caption for result in results))
        return f"{opening}{body}\n\n{captions}\n<!-- end -->"

    def problems(self) -> list[str]:
        """Return a line for each page that differs from the results, and for each sentence that its page lacks."""
        differences = []
        for page in self.pages:
            text, name = page.read_text(encoding="utf-8"), page.relative_to(self.repository).as_posix()
            if text.count("<!-- results:") != len(_BLOCK.findall(text)):
                differences.append(
                    f"{name}: a comment that names results has another form than benchmarks/results.py says"
                )
            elif self.render(text) != text:
                differences.append(f"{name}: differs from {FOLDER}; run python -m benchmarks.results")
            one_line = " ".join(text.split())
            for template in self.sentences.get(name, []):
                sentence = " ".join(self._environment.from_string(template).render().split())
                if sentence not in one_line:
                    differences.append(f"{name}: does not say: {sentence}")
        return differences


def new_result(command: str, output: str) -> Measurement:
    """Return a result that was measured now, on this machine, by the revision that is checked out.

    Args:
        command: Command that measured it.
        output: Text that the command printed; its lines become the values.

    Raises:
        ValueError: The code has changes that are not committed, so no revision is what was measured.
    """
    from benchmarks.harness import describe_machine  # It loads torch, which rendering does not need.

    if changed := _git("status", "--porcelain", "--", "ple_rec", "data_prep", "launch", "benchmarks"):
        raise ValueError(f"a result names the revision that was measured; commit these first:\n{changed}")
    today = datetime.now(UTC).date().isoformat()
    commit = _git("rev-parse", "--short", "HEAD")
    return Measurement(
        command=command, commit=commit, date=today, machine=describe_machine(), values=output.splitlines()
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return done.stdout.rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite and check the pages, only check them, or print a new result; return 1 if the check fails, else 0."""
    parser = argparse.ArgumentParser(description="Render the results of docs/results into README.md and docs/*.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page differs")
    parser.add_argument("--entry", metavar="COMMAND", help="print a new result: what COMMAND printed, from stdin")
    arguments = parser.parse_args(argv)
    if arguments.entry:
        print(new_result(arguments.entry, sys.stdin.read()).model_dump_json(indent=2))
        return 0
    results = Results(REPOSITORY)
    if not arguments.check:
        for page in results.pages:
            page.write_text(results.render(page.read_text(encoding="utf-8")), encoding="utf-8")
    problems = results.problems()
    print("\n".join(problems or ["every page agrees with docs/results"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
