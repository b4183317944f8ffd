"""Plans in an object store: the bytes of a disk, and a run that trains by one."""

from __future__ import annotations

from pathlib import Path

import pytest

import ple_rec
from ple_rec.cli import main
from ple_rec.config.plan import load_plan
from ple_rec.storage import Remote, location, names_in, write_text
from tests.object_store import free_port, use_store
from tests.reports.without_charts import without_charts
from tests.tiny import write_tiny

CPU = ["plan", "--config", "tiny.toml", "--device", "cpu", "--ranks-per-host", "1"]


@pytest.fixture
def store(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """An address below which nothing lies; `data/` and `tiny.toml` are in the working directory."""
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = location(address)
    assert isinstance(found, Remote)
    return found


def test_a_store_gets_the_bytes_of_a_disk(store: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("plan.json", f"{store}/plan.json"):
        for _ in range(2):  # a plan is written over
            assert main([*CPU, "--out", out]) == 0
    assert f"plan: {store}/plan.json\npage: {store}/plan.html\n" in capsys.readouterr().out
    assert names_in(store) == ["plan.html", "plan.json"]
    for name in names_in(store):
        assert (store / name).read_bytes() == Path(name).read_bytes()
    assert load_plan(store) == load_plan(Path("plan.json"))  # as of a run directory
    assert main(["plan", "--compare", "plan.json", f"{store}/plan.json"]) == 0
    made = ple_rec.plan("tiny.toml", device="cpu", ranks_per_host=1)
    assert made.write(f"{store}/api.json").read_bytes() == Path("plan.json").read_bytes()
    assert not Path("s3:").exists()


def test_a_run_trains_by_a_plan_of_a_store(store: Remote) -> None:
    assert main([*CPU, "--out", f"{store}/plan.json"]) == 0
    with without_charts():
        assert main(["train", "--config", "tiny.toml", "--plan", f"{store}/plan.json"]) == 0
        ple_rec.train("tiny.toml", plan=f"{store}/plan.json", run_dir="runs/api")
    for run in ("tiny", "api"):
        assert load_plan(Path("runs", run)).tables == load_plan(store).tables


def test_what_is_no_plan_or_cannot_be_read_is_refused_before_any_work(
    store: Remote, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(store / "thesis.json", "{}")
    write_text(store / "page.html", "")
    train = ["train", "--config", "tiny.toml", "--plan"]
    for argv, said in (
        ([*CPU, "--out", f"{store}/plan"], f'{store}/plan: ends in ""; a plan is a .json file'),
        ([*CPU, "--out", f"{store}/thesis.json"], f"{store}/thesis.json: exists and is no plan (no version)"),
        ([*CPU, "--out", f"{store}/page.json"], f"{store}/page.html: exists without its plan"),
        ([*train, f"{store}/thesis.json"], f"{store}/thesis.json: no version; this ple_rec reads plans of versions"),
        ([*train, f"{store}/none.json"], f"{store}/none.json: "),
        ([*CPU, "--out", "s4://bucket/plan.json"], "s4://bucket/plan.json: has the unknown scheme s4://"),
    ):
        assert main(argv) == 2
        assert capsys.readouterr().err.startswith(f"ple-rec: {said}")
    use_store(f"http://127.0.0.1:{free_port()}", monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert main([*CPU, "--out", f"{store}/plan.json"]) == 2
    assert f"{store}/plan.json: cannot be reached (" in capsys.readouterr().err
    assert main([*train, f"{store}/plan.json"]) == 2
    assert f"{store}/plan.json: " in capsys.readouterr().err
    assert not Path("runs").exists()
