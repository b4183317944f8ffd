"""A directory of another dataset is refused, and it is said what differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.errors import UserError
from tests.data_prep.feed_logs import digests
from tests.data_prep.plain_logs import TOML, Logs, day_of

THRESHOLD = TOML.replace(
    'label = "is_like"',
    'label = "duration_ms > threshold"\nthreshold = {value = "duration_ms", quantile = 0.5, by = "price", bins = 2}',
)
QUANTILES = '\n[[sparse]]\nname = "length"\nvalue = "duration_ms"\nquantiles = 3\n'
RULE = "; a dataset directory is replaced on request only"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """A dataset whose day 1, edges and threshold were left to the log."""
    logs = Logs(tmp_path_factory.mktemp("stale"), THRESHOLD + QUANTILES)
    logs.prepare()
    return logs


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """A dataset that takes less time."""
    logs = Logs(tmp_path_factory.mktemp("plain") / "logs")
    logs.prepare()
    return logs


def differs(logs: Logs, *overrides: str) -> str:
    """What is said to differ."""
    with pytest.raises(UserError) as caught:
        logs.prepare(*overrides)
    assert caught.value.value.startswith("holds a dataset of another configuration or other raw files (")
    assert caught.value.rule.endswith(RULE)
    return caught.value.rule.removesuffix(RULE)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["weight=price"], 'configuration: weight is "price", was not set'),
        (
            ["checks.duration=duration_ms >= 1", "tables.video_id.min_count=2"],
            'configuration: checks.duration is "duration_ms >= 1", was "duration_ms >= 0", '
            "tables.video_id.min_count is 2, was not set",
        ),
        (["sparse[1].quantiles=4"], "configuration: sparse[1].quantiles is 4, was 3"),
        (["tasks[0].threshold.quantile=0.6"], "configuration: tasks[0].threshold.quantile is 0.6, was 0.5"),
        (
            ["split.day_1=2022-04-14", "split.train=[2,3]", "split.valid=[4,4]", "split.test=[5,5]"],
            'configuration: split.day_1 is "2022-04-14", was "2022-04-15"',
        ),
    ],
)
def test_keys_of_the_configuration(made: Logs, overrides: list[str], message: str) -> None:
    assert message in differs(made, *overrides)


def test_many_keys_are_counted(made: Logs) -> None:
    said = differs(
        made, *(f"tables.video_id.{key}" for key in ("capacity=9", 'overflow="hash"', "hash_rows=2")), "name=a"
    )
    assert said.startswith('configuration: name is "a", was "plain", ')
    assert said.endswith(" and 1 more")


def test_raw_files(made: Logs, tmp_path: Path) -> None:
    logs = Logs(tmp_path, THRESHOLD + QUANTILES)
    shutil.copytree(made.out, logs.out)
    assert logs.prepare().reused
    logs.spoil(2, "price", {3: 99.0})
    logs.write(4, day_of(4).slice(0, 20))
    logs.file(1).rename(logs.raw / "log" / "day 01.parquet")
    assert differs(logs) == (
        "new files: log/day 01.parquet; removed files: log/day 1.parquet; "
        "changed files: log/day 2.parquet, log/day 4.parquet"
    )
    assert differs(logs, "name=b").startswith('configuration: name is "b", was "plain"; new files: ')


def test_what_the_directory_does_not_tell(made: Logs, tmp_path: Path) -> None:
    logs = Logs(tmp_path, THRESHOLD + QUANTILES)
    shutil.copytree(made.out, logs.out)
    success = json.loads((logs.out / "_SUCCESS").read_text())
    (logs.out / "_SUCCESS").write_text(json.dumps(success | {"recipe": "0" * 64}))
    assert differs(logs) == "another version of ple-rec made it"
    (logs.out / "prep.toml").write_text("name = 1\n")
    said = "its prep.toml, stats.json or schema cannot be read by this version"
    assert differs(logs) == said
    shutil.copy(made.out / "prep.toml", logs.out)
    (logs.out / "stats.json").write_text("{}\n")
    assert differs(logs) == said


@pytest.mark.parametrize("name", ["train/part-00000.parquet", "schema.toml", SUCCESS_FILE])
def test_a_damaged_directory_is_prepared_again_on_request(name: str, plain: Logs, tmp_path: Path) -> None:
    """Of the same files and configuration, so that their fingerprint does not tell."""
    shutil.copytree(plain.root, tmp_path / "logs")
    logs, whole = Logs.there(tmp_path / "logs"), digests(plain.out)
    assert logs.prepare(overwrite=True).reused
    content = (logs.out / name).read_bytes()
    recipe = json.loads((logs.out / SUCCESS_FILE).read_text())["recipe"]
    (logs.out / name).write_bytes(
        json.dumps({"recipe": recipe, "file": {}}).encode() if name == SUCCESS_FILE else content[:-1]
    )
    assert not logs.prepare(overwrite=True).reused
    assert digests(logs.out) == whole
