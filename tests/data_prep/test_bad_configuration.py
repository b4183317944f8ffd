"""What a configuration asks for and cannot have: every problem is named by its key, and all are told together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.run import Options, prepare, read_recipe
from data_prep.sources import files as files_module
from ple_rec.cli import main
from ple_rec.config.problems import ConfigError
from ple_rec.errors import DataError, UserError
from ple_rec.runtime import versions
from tests.data_prep.plain_logs import SIDE, TOML, Logs


def refused(logs: Logs, *overrides: str) -> str:
    with pytest.raises((UserError, DataError)) as caught:
        logs.prepare(*overrides)
    assert not logs.out.exists()
    return str(caught.value)


def test_a_base_is_a_preparation(tmp_path: Path) -> None:
    logs = Logs(tmp_path, "")
    for base in ("kuairand", "kuairand-six-days", "kuairand-six-days-rates"):
        logs.toml.write_text(f'base = "{base}"\nname = "mine"\n')
        assert read_recipe(str(logs.toml))[0] == read_recipe(base)[0].model_copy(update={"name": "mine"})
    logs.toml.write_text('base = "kuairant"\n')
    message = 'base kuairant: no such recipe or file; did you mean "kuairand"? (recipes: ali-ccp, census, kuairand, '
    assert message in refused(logs)
    logs.toml.write_text('base = "census-ple"\n')
    said = "base census-ple: a recipe of a run; the configuration of a preparation is needed here. Fix: "
    assert said in refused(logs)


@pytest.mark.parametrize("delimiter", ["、", '"', "\n", "\r"])
def test_what_is_no_delimiter(delimiter: str, tmp_path: Path) -> None:
    shown = json.dumps(delimiter, ensure_ascii=False)
    message = f"log.csv.delimiter: got {shown}; a delimiter is an ASCII character, no quote and no line end"
    toml = TOML.replace("[time]", f"[log.csv]\ndelimiter = {json.dumps(delimiter)}\n\n[time]")
    assert message in refused(Logs(tmp_path, toml))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "sparse[0].value=concat(vidoe_id, ':', user_id)",
            "log/day 1.parquet, column 'vidoe_id': there is no such column; plain.toml: sparse[0].value "
            "`concat(vidoe_id, ':', user_id)` needs it in every file. Fix: did you mean 'video_id'?",
        ),
        ("group=usr", "plain.toml: group `usr` needs it in every file. Fix: did you mean 'user_id'?"),
        (
            'log.where=video_id = "v1"',
            "log/day 1.parquet, column 'v1': there is no such column; plain.toml: log.where `video_id = \"v1\"` needs "
            "it in every file. Fix: write a text in single quotes: 'v1'; if a column is meant, use one of user_id, "
            "video",
        ),
        (
            'tasks[0].label="is_lik"',
            "plain.toml: tasks[0].label `is_lik` needs it in every file. Fix: did you mean 'is_like'?",
        ),
        (
            "sparse[0].value=time.hours",
            "plain.toml: sparse[0].value `time.hours` needs it in every file. Fix: did you mean 'time.hour'?",
        ),
        (
            "sparse[0].value=usrs.age",
            "plain.toml: sparse[0].value `usrs.age` needs it in every file. Fix: did you mean 'users.age'?",
        ),
        (
            "sparse[1].value=users.agee",
            "users.parquet, column 'agee': there is no such column; plain.toml: sparse[1].value `users.agee` needs it "
            "in every file. Fix: did you mean 'age'?",
        ),
        (
            'sides.users.on={usr_id="user_id"}',
            "users.parquet, column 'usr_id': there is no such column; plain.toml: sides.users.on `usr_id` needs it in "
            "every file. Fix: did you mean 'user_id'?",
        ),
    ],
)
def test_a_column_that_is_not_there_is_named_with_its_key(override: str, message: str, tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + SIDE)
    logs.users([{"user_id": 1, "age": "a"}])
    assert message in refused(logs, *override.split("\n"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            'group=["user_id", "usr"]',
            "plain.toml: group[1] `usr` needs it in every file. Fix: did you mean 'user_id'?",
        ),
        ('group=["user_id", "time_ms", "user_id"]', "group[2]: 'user_id' is an entry before it; name each once"),
        ("group=[]", "--set: 1 problem\n  group: got []; must have at least 1 item"),
        ('group=["user_id", 1]', "--set: 1 problem\n  group[1]: got 1 (int); expected a string"),
        ("group=1", "group: got 1 (int); expected a string or a non-empty array of strings"),
        (
            'group=["user_id", "price"]',
            "column 'price': got 0.0, of type float64; a group is an integer or text (plain.toml: group[1]). Fix: "
            "write cast(price as bigint)",
        ),
        (
            'group=["user_id", "time.day"]\ntime=\nsplit={by="hash", value="user_id", valid=0.2, test=0.2}',
            "group[1]: `time.day` reads time.day; words such as time.day need the section [time]. Fix: add [time]",
        ),
        (
            'group=["user_id", "time.day"]\nsparse[0].name=subgroup',
            "feature 'subgroup': the column is the subgroup; use another name",
        ),
    ],
)
def test_groups_that_cannot_be(override: str, message: str, tmp_path: Path) -> None:
    assert message in refused(Logs(tmp_path), *override.split("\n"))


def test_a_side_table_is_not_named_as_the_log(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + SIDE.replace("sides.users", "sides.log").replace("users.age", "log.age"))
    logs.users([{"user_id": 1, "age": "a"}])
    assert "sides.log: in expressions, `log` means the log itself; use another name" in refused(logs)


def test_tasks_that_differ_in_case_alone(tmp_path: Path) -> None:
    """Their label columns would be one to DuckDB."""
    two = ", ".join(f'{{name = "{name}", kind = "binary", label = "is_like"}}' for name in ("share", "Share"))
    assert "'share' and 'Share' differ only in case" in refused(Logs(tmp_path), f"tasks=[{two}]")


def test_columns_that_are_not_there_are_told_together(tmp_path: Path) -> None:
    message = refused(Logs(tmp_path), "sparse[0].value=vidoe_id", "dense[0].value=prize", "group=zzz")
    assert message == (
        "log/day 1.parquet: there are no columns 'vidoe_id', 'prize', 'zzz'; a column that is read must be in every "
        "file. Fix: correct each of them:\n"
        "  column 'vidoe_id': plain.toml: sparse[0].value `vidoe_id` needs it in every file; did you mean 'video_id'?\n"
        "  column 'prize': plain.toml: dense[0].value `prize` needs it in every file; did you mean 'price'?\n"
        "  column 'zzz': plain.toml: group `zzz` needs it in every file; use one of user_id, video_id, time_ms, "
        "duration_ms, price, is_like"
    )


def test_a_zone_with_daylight_saving_is_told_what_to_do_once(tmp_path: Path) -> None:
    message = refused(Logs(tmp_path), "time.utc_offset=Europe/Berlin")
    assert message.endswith(
        "time.utc_offset: got 'Europe/Berlin'; write an offset as +HH:MM or -HH:MM, less than 15 hours; for a zone "
        'with daylight saving, write the local date as a column, and set unit = "date"'
    )


def test_files_of_all_tables_are_found_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs(tmp_path, TOML + SIDE)
    monkeypatch.setattr(files_module, "identify", lambda *given: pytest.fail("a file is digested"))
    monkeypatch.setattr(files_module, "read_footer", lambda *given: pytest.fail("a footer is read"))
    message = refused(logs, 'log.files=["log", "lgo"]', 'sides.users.files=["usrs.parquet"]')
    assert message == (
        "plain.toml: 2 problems\n"
        f"  log.files: nothing matches 'lgo' below {logs.raw}; {logs.raw} has log. "
        "Fix: did you mean 'log'?\n"
        f"  sides.users.files: nothing matches 'usrs.parquet' below {logs.raw}; {logs.raw} has log. "
        "Fix: correct the pattern or --from; a folder stands for its regular .parquet, .csv and .csv.gz files"
    )
    message = refused(logs)  # one problem is told as such
    assert message.startswith("sides.users.files: nothing matches 'users.parquet' below ")
    with pytest.raises(UserError, match=r"^/nowhere: no such file or folder") as caught:
        logs.prepare(source="/nowhere")
    assert not isinstance(caught.value, ConfigError)  # the same of both tables, once


def test_an_unknown_key_hides_nothing(tmp_path: Path) -> None:
    """Keys, what goes together, and expressions; by the command line as by the file."""
    logs = Logs(tmp_path, TOML.replace('name = "plain"', 'name = "plain"\nsplitt = 1'))
    twice = "  --set 'price' names two columns of the dataset"
    spoilt = ["checks.duration=duration_ms >=", 'dense=[{name="price"}, {name="price"}]']
    first, *lines = refused(logs, *spoilt, "log.files=[]").splitlines()
    assert first == f"{logs.toml}: 2 problems"
    assert sorted(line.partition(":")[0].strip() for line in lines) == ["--set log.files", "splitt"]
    lines = refused(logs, *spoilt).splitlines()
    assert lines == [f"{logs.toml}: 2 problems", "  splitt: unknown key; did you mean `split`?", twice]
    first, key, expression = refused(logs, spoilt[0]).splitlines()
    assert key == "  splitt: unknown key; did you mean `split`?"
    assert expression.startswith("  --set checks.duration: ")
    plain = Logs(tmp_path / "plain")
    first, key, expression = refused(plain, spoilt[0], "tasks[0].lable=is_like").splitlines()
    assert key == "  tasks[0].lable: unknown key; did you mean `label`?"
    assert expression.startswith("  checks.duration: ")


def test_double_quotes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = Logs(tmp_path)
    argv = [
        "prep",
        str(logs.toml),
        "--from",
        str(logs.raw),
        "--out",
        str(logs.out),
        "--set",
        'log.where=video_id = "v1"',
    ]
    assert main(argv) == 3
    assert "Fix: write a text in single quotes: 'v1'; if a column is meant, " in capsys.readouterr().err


@pytest.mark.parametrize("pyspark", [True, False], ids=["without Java", "without PySpark"])
def test_spark_that_cannot_run_is_refused_from_python_too(
    pyspark: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = Logs(tmp_path)
    monkeypatch.setattr(versions, "pyspark_version", lambda: "4.3.0" if pyspark else None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    lacks = "no Java answers" if pyspark else "PySpark is not installed"
    with pytest.raises(UserError, match=rf"^--engine spark: {lacks}; Spark is PySpark and a Java that runs it"):
        prepare(str(logs.toml), logs.out, Options(source=str(logs.raw), engine="spark"))
    assert not logs.out.exists()
