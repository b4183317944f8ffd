"""`ple-rec init`: flags and summary; `data_prep.init` guesses what a log's columns are, and writes configurations."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from ple_rec.cli.console import show
from ple_rec.cli.options import flag, local_path, verb_app

app = verb_app(
    "init",
    """\
examples:
  ple-rec init feed --from logs/
  ple-rec init feed --from 'logs/2024-*.csv.gz'
  ple-rec init shop --from orders.parquet --label bought revenue

docs/prep.md explains the first file, docs/training.md the second.
""",
)


@app.default
def init(
    folder: Annotated[
        Path, flag("folder to write; its name becomes the name of the dataset", parse=local_path, name="DIR")
    ],
    /,
    *,
    source: Annotated[
        tuple[str, ...],
        flag(
            "log with a row for each impression: a folder, or Parquet or CSV files or globs",
            "FILES [FILES ...]",
            name="--from",
            consume_multiple=1,
        ),
    ],
    label: Annotated[
        tuple[str, ...], flag("columns to predict; default: guessed", "COLUMN [COLUMN ...]", consume_multiple=1)
    ] = (),
) -> int:
    """Begin with your own logs: guess the roles of their columns, and write configurations.

    Writes DIR/prep.toml, from which `ple-rec prep` makes a dataset, and DIR/train.toml, a first model. Ids, labels,
    time and features are guessed from names, types and a sample of values; each guess is marked, with its reason, for
    you to correct.
    """
    from data_prep.init.files import (
        PREP_FILE,
        SLOW_COLUMNS,
        TRAIN_FILE,
        check_absent,
        count_text,
        find_problem,
        write_files,
    )
    from data_prep.init.log import open_log
    from data_prep.init.roles import guess_roles

    check_absent(folder)
    with open_log(source) as log:
        roles = guess_roles(log.rows, label, log.unreadable)
        dataset = write_files(folder, log, roles)
        problem = find_problem(folder / PREP_FILE, log)
    tasks = ", ".join(f"{task.column.feature} ({task.kind})" for task in roles.labels)
    user = "none" if roles.user is None else roles.user.name
    time = "none" if roles.time is None else roles.time.column.name
    prep = ["ple-rec", "prep", str(folder / PREP_FILE), "--from", log.source, "--out", str(dataset)]
    notes = []
    if roles.user is None:
        notes.append(
            "no column has the name of a user: if there is one, add a [[sparse]] entry for it, and name it as group"
        )
    if log.files == (".",) and folder.resolve().is_relative_to(Path(log.source).resolve()):
        notes.append(f"{folder} lies in the folder of the log: prep will warn that it does not read the two files")
    notes += [f"{name}: {question}" for name, question in roles.questions.items()]
    if len(roles.features) >= SLOW_COLUMNS:
        notes.append(
            f"prep takes a minute or more for {SLOW_COLUMNS:,} features: remove those that say nothing about the labels"
        )
    if problem:
        notes.append(f"prep refuses {folder / PREP_FILE} as it is: {problem}")
    decisions = f", {count_text(len(roles.questions), 'column')} for you to decide" if roles.questions else ""
    lines = "".join(f"{note}\n" for note in notes)
    show(
        f"{folder / PREP_FILE}: tasks {tasks}; user {user}; time {time}; {count_text(len(roles.features), 'feature')}, "
        f"{count_text(len(roles.left_out), 'column')} left out{decisions}\n"
        f"{folder / TRAIN_FILE}: a first model\n"
        f"{lines}"
        "look through the guesses, then:\n"
        f"  {shlex.join([*prep, '--dry-run'])}    # shows what would be done; then without --dry-run\n"
        f"  {shlex.join(['ple-rec', 'train', '--config', str(folder / TRAIN_FILE)])}"
    )
    return 0
