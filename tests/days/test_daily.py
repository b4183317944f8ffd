"""A chain of days from its logs to a served model: what is published, what is refused, and what stays served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import ple_rec
from ple_rec.cli import main
from ple_rec.config.load import load_schema
from ple_rec.days.chain import hold_chain
from ple_rec.errors import DataError, UserError
from ple_rec.inference.load_version import load_ranker
from ple_rec.inference.model_dir import latest_version
from tests.days.days import day_name, disk_full_in_child, latest, record_of, run
from tests.inference.exported import set_latest

SPOILED = 'train.day_overrides=["table_optimizer.learning_rate=3.0"]'


def test_three_days_end_to_end(chain: Path) -> None:
    first, fourth, fifth = (record_of(name) for name in ("first", day_name(4), day_name(5)))
    assert [each["day"] for each in (first, fourth, fifth)] == [day_name(3), day_name(4), day_name(5)]
    assert [each["verdict"] for each in (first, fourth, fifth)] == ["published"] * 3
    assert first["started_from"] is None
    assert fourth["started_from"].startswith("chain/runs/first:step-")
    assert fifth["started_from"].startswith(f"chain/runs/{day_name(4)}:step-")
    assert (first["compared_with"], fourth["compared_with"], fifth["compared_with"]) == (None, "v1", "v2")
    for day in (fourth, fifth):
        began = json.loads((Path(day["run"]) / "init_from.json").read_text())
        assert day["started_from"].endswith(f":{began['checkpoint']}")
        assert [(each["task"], each["metric"]) for each in day["differences"]] == [
            ("click", "auc"),
            ("click", "ne"),
            ("watch", "mse"),
        ]
        assert all(each["interval"][0] <= each["gain"] <= each["interval"][1] for each in day["differences"])
        assert set(day["seconds"]) == {"prepare", "train", "export"}
    # The ids of day 5 descend from those of the first days, and the model knows its new videos.
    lineage = [load_schema(Path(each["dataset"])).fingerprint for each in (fifth, fourth, first)]
    assert list(load_schema(Path(fifth["dataset"])).lineage()) == lineage
    assert fifth["tables"]["video"] > fourth["tables"]["video"] > first["tables"]["video"]
    model = ple_rec.load_model("model")
    assert (latest(), model.version) == ("v3", "v3")
    assert fifth["version"] == str(Path("model/versions/v3"))
    files = [file for file in Path(fifth["version"]).rglob("*") if file.is_file() and file.name != "manifest.json"]
    assert fifth["bytes"] == sum(file.stat().st_size for file in files)
    ranked = model.rank({"user_id": 1003, "age": 3.5}, [{"video_id": f"v{v}"} for v in range(60)])
    assert len(ranked) == 60
    assert len(set(ranked["click"].to_pylist())) > 30


def test_validation_is_that_of_the_served_model_on_raw_values(chain: Path) -> None:
    """The served version's metrics are those of scores that a client gets for the day's held-out rows."""
    day = record_of(day_name(5))
    dataset = Path(day["dataset"])
    rows = ple_rec.open_dataset(dataset).read("test")
    vocabularies = {
        table: [None, *pq.read_table(dataset / "vocab" / f"{table}.parquet")["raw"].to_pylist()]
        for table in ("user", "video")
    }
    body = {
        "user_id": [vocabularies["user"][row] for row in rows["user_id"].to_pylist()],
        "video_id": [vocabularies["video"][row] for row in rows["video_id"].to_pylist()],
        "age": rows["age"].to_pylist(),
    }
    for version, key in (("v2", "served"), ("v3", "candidate")):
        scored = ple_rec.load_model(f"model/versions/{version}").score(body)
        error = np.array(scored["watch"]) - np.array(rows["label_watch"])
        expected = float((error.astype(np.float64) ** 2).mean())
        difference = next(each for each in day["differences"] if each["task"] == "watch")
        assert difference[key] == pytest.approx(expected, rel=1e-5)
        assert difference["rows"] == len(rows)


def test_a_published_day_is_left_alone(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = record_of(day_name(5))
    assert main(["daily", "--config", "daily.toml", "--day", day_name(5), "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == before
    assert f"{day_name(5)}: published before; nothing is left to do" in output.err
    assert main(["daily", "--config", "daily.toml", "--day", day_name(3)]) == 0
    assert latest() == "v3"
    set_latest(Path("model"), "v2")
    assert main(["daily", "--config", "daily.toml", "--day", day_name(5)]) == 0
    assert f"note: {Path('model/latest')} names v2 now\n" in capsys.readouterr().out
    assert record_of(day_name(5)) == before


def test_the_gate_keeps_the_served_version(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["daily", "--config", "daily.toml"]
    assert main([*argv, "--set", SPOILED]) == 6
    text = capsys.readouterr().out
    assert "refused:\n  click: auc is worse by more than 0.05; gain -" in text
    assert text.endswith("v3 stays served\n")
    assert latest() == "v3"
    assert not Path("model/versions/v4").exists()
    refused = record_of(day_name(6))
    assert (refused["verdict"], refused["version"]) == ("refused", None)
    # The next day goes on from the weights that are served, and from the ids of the refused day.
    following = run()
    assert (following.day, following.verdict, latest()) == (day_name(7), "published", "v4")
    assert following.started_from is not None
    assert following.started_from.startswith(f"chain/runs/{day_name(5)}:")
    assert load_schema(Path(following.dataset)).parent == load_schema(Path(refused["dataset"])).fingerprint
    # The refused day is over, unless it and the later day are removed after a roll-back.
    assert run(6).verdict == "refused"
    set_latest(Path("model"), "v3")
    for day in (day_name(6), day_name(7)):
        shutil.rmtree(f"chain/datasets/{day}")
        shutil.rmtree(f"chain/runs/{day}")
        Path(f"chain/records/{day}.json").unlink()
    again = run()
    assert (again.day, again.verdict, again.compared_with, latest()) == (day_name(6), "published", "v3", "v5")


def test_a_refused_day_may_be_judged_again(chain: Path) -> None:
    assert run(6, "gate.min_positives=100000").reasons[0].startswith("no margin can be judged: a task needs 100,000")
    assert latest() == "v3"
    again = run(6)
    assert (again.verdict, latest()) == ("published", "v4")


def test_a_run_of_another_configuration_is_not_continued(chain: Path) -> None:
    assert run(6, "gate.min_positives=100000").verdict == "refused"
    fix = f"Fix: remove chain/runs/{day_name(6)} to train the day anew"
    with pytest.raises(UserError, match=rf"learning_rate was .* the run of this day was begun with .*{fix}"):
        run(6, SPOILED)


@pytest.mark.slow
def test_after_a_roll_back_the_next_day_starts_from_the_served_run(chain: Path) -> None:
    set_latest(Path("model"), "v2")
    record = run()
    assert record.started_from is not None
    assert record.started_from.startswith(f"chain/runs/{day_name(4)}:")
    assert (record.compared_with, latest()) == ("v2", "v4")


def test_a_day_without_logs_or_rows_is_refused(chain: Path) -> None:
    folder = Path(f"raw/log/day={day_name(6)}")
    log = pq.read_table(folder / "part-0.parquet", partitioning=None)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=rf"nothing matches 'log/day={day_name(6)}'"):
        run()
    folder.mkdir()
    other_day = pq.read_table(f"raw/log/day={day_name(7)}/part-0.parquet", partitioning=None)
    pq.write_table(other_day, folder / "part-0.parquet")
    with pytest.raises(DataError, match=r"no row lies in train; .* give the files of the day"):
        run()
    assert latest() == "v3"
    pq.write_table(log, folder / "part-0.parquet")
    assert run().verdict == "published"


def test_a_chain_has_not_begun(chain: Path) -> None:
    shutil.rmtree("chain")
    with pytest.raises(UserError, match=rf"--day {day_name(4)}: chain has no days yet; .* leave --day out once"):
        run(4)
    with pytest.raises(UserError, match=r"v3: is served; .* of another chain.* by --new-chain"):
        run()
    assert latest() == "v3"


@pytest.mark.slow
def test_a_new_chain_replaces_the_model_of_another_one(chain: Path) -> None:
    shutil.rmtree("chain")
    record = run(new_chain=True)
    assert (record.name, record.compared_with, latest()) == ("first", "v3", "v4")
    assert record.started_from is None


def test_a_served_version_of_another_chain_is_refused(chain: Path) -> None:
    Path("model/latest").rename("latest")
    with pytest.raises(UserError, match=r"model: has no file latest; a day starts from the run of the served version"):
        run()
    Path("latest").rename("model/latest")
    description = json.loads(Path("model/versions/v3/model.json").read_text())
    description["card"]["dataset"]["fingerprint"] = "f" * 64
    Path("model/versions/v3/model.json").write_text(json.dumps(description))
    with pytest.raises(
        UserError, match=r"v3: was trained on dataset ffffffffffff; it is served, but that dataset is not one of"
    ):
        run()
    assert latest() == "v3"
    assert not Path(f"chain/datasets/{day_name(6)}").exists()  # Both are refused before the day is prepared.


def test_a_dataset_of_another_lineage_is_refused(chain: Path) -> None:
    shutil.rmtree(f"chain/datasets/{day_name(4)}")
    shutil.copytree(f"chain/datasets/{day_name(5)}", f"chain/datasets/{day_name(6)}")
    main(
        [
            "prep",
            "feed.toml",
            "--from",
            "raw",
            "--out",
            f"chain/datasets/{day_name(4)}",
            "--append",
            day_name(4),
            "--parent",
            "chain/datasets/first",
            "--set",
            "append.test=0.3",
            "--threads",
            "1",
        ]
    )
    with pytest.raises(DataError, match=rf"{day_name(5)}: is not appended to chain/datasets/{day_name(4)}"):
        run()


def test_the_run_of_the_served_version_is_needed(chain: Path) -> None:
    shutil.rmtree(f"chain/runs/{day_name(5)}")
    with pytest.raises(UserError, match=rf"{day_name(5)}: has no run of the served version v3"):
        run()


@pytest.mark.parametrize("named", ["v2", "v3"])
def test_a_published_day_whose_record_was_not_written(chain: Path, named: str) -> None:
    """A call was killed between the version and `latest`, or between `latest` and the record."""
    before = record_of(day_name(5))
    Path(f"chain/records/{day_name(5)}.json").write_text(json.dumps(before | {"verdict": "accepted"}))
    set_latest(Path("model"), named)
    record = run()
    assert (record.day, record.verdict, record.version) == (day_name(5), "published", before["version"])
    assert (latest(), sorted(path.name for path in Path("model/versions").iterdir())) == ("v3", ["v1", "v2", "v3"])


@pytest.mark.slow
def test_a_full_disk_leaves_the_served_version(chain: Path) -> None:
    """No file may grow beyond 10 kB: the export fails in the middle, and the repeated call publishes the day."""
    assert disk_full_in_child(chain, 10_000) == UserError.exit_code
    assert latest() == "v3"
    assert not Path("model/versions/v4").exists()
    record = run()
    assert (record.day, record.verdict, latest()) == (day_name(6), "published", "v4")


def test_a_second_process_is_refused(chain: Path) -> None:
    with hold_chain(Path("chain")), pytest.raises(UserError, match="chain: is in use by another process; one process"):
        run()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gate.margins.clicks.auc=0.1", "gate.margins.clicks: is no task"),
        ('export.form="delta"', "precision"),
        ('missing_days=["May"]', "write a day as YYYY-MM-DD"),
        ("keep=1", "keep"),
    ],
)
def test_a_wrong_configuration_is_refused(chain: Path, override: str, message: str) -> None:
    more = ['export.precision="fp32"'] if "delta" in override else []
    with pytest.raises(UserError, match=message):
        run(None, override, *more)
    assert latest() == "v3"
    assert not Path(f"chain/runs/{day_name(6)}").exists()


@pytest.mark.slow
def test_old_days_are_removed_on_request(chain: Path) -> None:
    set_latest(Path("model"), "v1")
    # The first day's run is served until this day is published.
    assert run(None, "keep=2").started_from is not None
    assert sorted(path.name for path in Path("chain/runs").iterdir()) == [day_name(5), day_name(6)]
    assert sorted(path.name for path in Path("chain/datasets").iterdir()) == [day_name(5), day_name(6)]
    assert run(4).verdict == "published"
    assert run().day == day_name(7)


@pytest.mark.slow
def test_a_fusion_goes_on(chain: Path) -> None:
    fusion = Path("exponents.toml")
    fusion.write_text((latest_version(Path("model")) / "fusion.toml").read_text().replace("1.0", "0.5", 1))
    run(None, 'export.fusion="exponents.toml"')
    run()
    assert load_ranker(latest_version(Path("model"))).fusion == load_ranker(Path("model/versions/v4")).fusion
    assert 0.5 in ple_rec.load_model("model").exponents.values()


def test_the_api_does_what_the_verb_does(chain: Path) -> None:
    day = ple_rec.daily("daily.toml", day=day_name(6), overrides={"gate.min_positives": 100_000})
    assert (day.day, day.verdict, day.version) == (day_name(6), "refused", None)
    day = ple_rec.daily("daily.toml", day=day_name(6))
    assert (day.verdict, day.version) == ("published", str(Path("model/versions/v4")))
    assert dict(day.results) == record_of(day_name(6))
    assert "against v3" in day._repr_html_()
    with pytest.raises(UserError, match="day: got 'May'; a day is a date"):
        ple_rec.daily("daily.toml", day="May")


DELTA = ('export.form="delta"', "export.delta_share=1.0")


def test_a_delta_is_published_and_served(chain: Path) -> None:
    whole_bytes = record_of(day_name(5))["bytes"]
    record = run(None, *DELTA)
    assert (record.verdict, record.form, record.notes) == ("published", "delta", ())
    assert json.loads(Path("model/versions/v4/model.json").read_text())["delta"]["base"] == "v3"
    assert record.bytes is not None
    assert record.bytes < whole_bytes
    assert ple_rec.load_model("model").version == "v4"
    following = run(None, *DELTA, "export.whole_every=2")
    assert (following.form, following.compared_with) == ("whole", "v4")
    assert following.notes == ("a whole version, since whole_every = 2 and 1 delta(s) follow the last one",)


def test_a_delta_that_is_too_large_becomes_a_whole_version(chain: Path) -> None:
    record = run(None, DELTA[0], "export.delta_share=0.001")
    assert (record.verdict, record.form, latest()) == ("published", "whole", "v4")
    (note,) = record.notes
    assert note.startswith("a whole version, since ")
    assert "delta" not in json.loads(Path("model/versions/v4/model.json").read_text())
