"""The command line: help without torch, words it does not know, and every refusal with its exit code."""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ple_rec.cli import main
from ple_rec.cli.app import VERBS
from ple_rec.cli.submission import check_input
from ple_rec.cli.train import train
from ple_rec.config.choices import COMPARISON_CONFIGS, recipe_names
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import dump_toml, load_config
from ple_rec.config.run import RunConfig
from ple_rec.runs import layout, results
from ple_rec.training import run
from tests.tiny import LAST_GROUP, environment, write_tiny

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `data/` and `tiny.toml`."""
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stderr, without the newline at its end."""
    return capsys.readouterr().err.removesuffix("\n")


def test_help_of_every_verb_imports_no_torch(repository: Path) -> None:
    code = f"""
import sys
import ple_rec
from ple_rec.cli import main
for argv in {[["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]!r}:
    assert main(argv) == 0
print(sorted({{"torch", "torchrec", "pyarrow", "ibis", "numpy", "pydantic"}} & set(sys.modules)))
assert main(["train", "--help-config"]) == 0
print(sorted({{"torch", "torchrec", "pyarrow", "ibis", "numpy"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    text = done.stdout
    assert text.count("\n[]\n") == 2
    for verb in VERBS:
        assert f"usage: ple-rec {verb}" in text
    assert "exit codes: 0 done; 1 a bug (traceback); 2 your input is wrong" in text
    assert f"recipes: {', '.join(recipe_names())}" in " ".join(text.split())
    assert "embeddings.dim" in text or "[embeddings]" in text


def test_help_names_all_that_a_run_writes() -> None:
    described = train.__doc__ or ""
    shown = sorted(name for name in layout._OWN if not name.startswith("."))
    assert [name for name in shown if name not in described] == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["trian", "--config", "x"],
            'command line: unknown verb "trian"; did you mean "train"? '
            f"(known: {', '.join(VERBS)}). Fix: run `ple-rec --help`",
        ),
        (
            ["evaluate", "runs/x", "--jsn"],
            'evaluate: unknown argument "--jsn"; did you mean "--json"? '
            "(known: --split, --checkpoint, --json, --set, --ranks). Fix: run `ple-rec evaluate --help`",
        ),
        (
            ["prep", "census", "--out", "x", "--over"],
            'prep: unknown argument "--over"; did you mean "--overwrite"? (known: --from, --out, --overwrite, '
            "--dry-run, --append, --parent, --engine, --master, --memory, --threads, --set, --help-config, --rows, "
            "--seed, --correlation, --dim, --raw). Fix: run `ple-rec prep --help`",
        ),
        (
            ["evaluate", "runs/x", "--set", "a.b=1", "c.d=2"],
            'evaluate: unknown argument "c.d=2"; known: --split, --checkpoint, --json, --set, --ranks. '
            "Fix: write --set c.d=2",
        ),
        (
            ["train", "--device", "gpu"],
            'train: unknown argument "--device"; known: --config, --set, --run-dir, --resume, --auto-resume, '
            "--overwrite, --init-from, --plan, --profile, --help-config, --ranks. "
            'Fix: write --set runtime.device=... ("auto", "cpu" or "cuda")',
        ),
        (
            ["prep", "cencus", "--out", "x"],
            "prep: unknown data set 'cencus'; known are ali-ccp, census, kuairand, kuairand-six-days, "
            "kuairand-six-days-histories, kuairand-six-days-rates, kuairand-six-days-rates-histories, mmoe-synthetic, "
            "tencent, tencent-synthetic. Fix: did you mean 'census'?",
        ),
        (
            ["train"],
            "--config: missing; it names a TOML file or a recipe. Fix: give one, e.g. --config census-ple",
        ),
        (
            ["train", "--config", "census-pel"],
            'census-pel: no such recipe or file; did you mean "census-ple"? (recipes: '
            f"{', '.join(recipe_names())}). Fix: give the path of a TOML file or the name of a recipe",
        ),
        (
            ["compare", "--config", "tiny.toml"],
            "tiny.toml: the configuration of a run; a comparison has a file of its own, with a table "
            "[variants.NAME] for each model. Fix: write one that names this file as the base of a variant; `ple-rec "
            "compare --help` shows the smallest",
        ),
        (
            ["compare", "--config", "census-ple"],
            "census-ple: a recipe of a run; the configuration of a comparison is needed here. Fix: call "
            f"`ple-rec train --config census-ple`, or name one of {', '.join(recipe_names(COMPARISON_CONFIGS))}",
        ),
        (
            ["compare", "--config", "census-compare", "--reuse", "runs/nix"],
            "--reuse: runs/nix holds no compare.toml; finished runs are copied from the directory of another "
            "comparison. Fix: give a directory that `ple-rec compare` wrote, such as runs/compare/NAME",
        ),
        (
            ["train", "--config", "census-compare"],
            "census-compare: a recipe of a comparison; the configuration of a run is needed here. Fix: call "
            f"`ple-rec compare --config census-compare`, or name one of {', '.join(recipe_names())}",
        ),
        (
            ["train", "--config", "tiny.toml", "--resume", "--overwrite"],
            "--resume --overwrite: both given; one keeps the run, the other removes it. Fix: choose one",
        ),
        (
            ["train", "--config", "tiny.toml", "--auto-resume", "--overwrite"],
            "--auto-resume --overwrite: both given; one keeps the run, the other removes it. Fix: choose one",
        ),
        (
            ["train", "--config", "tiny.toml", "--auto-resume", "--resume"],
            "--resume --auto-resume: both given; --resume needs an existing run, --auto-resume starts one if there is "
            "none. Fix: choose one",
        ),
        (
            ["train", "--config", "tiny.toml", "--resume"],
            "runs/tiny: holds no run; --resume goes on with one. Fix: start it without --resume",
        ),
        (
            ["evaluate", "runs/nix"],
            "runs/nix: no such run; a run is named by its directory (config.toml, train.jsonl, ...) or by its name "
            "under {here}/runs/. Fix: no run is there; give the directory of one, or call it from the folder "
            "that holds runs/",
        ),
    ],
)
def test_input_that_is_refused(here: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    before = sorted(here.iterdir())
    assert main(argv) == 2
    assert said(capsys) == f"ple-rec: {message.replace('{here}', str(here))}"
    assert sorted(here.iterdir()) == before


def test_the_keys_of_a_comparison_are_listed_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help-config"]) == 0
    out = capsys.readouterr().out
    assert [key for key in CompareConfig.model_fields if key not in out] == []


def test_an_interrupted_comparison_says_that_it_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ple_rec.analysis.compare.compare.run_comparison", interrupted)
    assert main(["compare", "--config", "census-compare"]) == 130
    assert said(capsys).splitlines() == [
        "finished runs are kept; the same command resumes the others",
        "ple-rec: interrupted",
    ]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("failed", "stopped", "code"), [([], [], 0), ([], ["ple, seed 0"], 75), (["ple seed 1"], ["ple, seed 0"], 5)]
)
def test_a_comparison_with_a_run_that_was_asked_to_stop_is_no_success(
    failed: list[str], stopped: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ple_rec.analysis.compare.compare import ComparisonResult

    done = ComparisonResult("{}", failed, stopped)
    monkeypatch.setattr("ple_rec.analysis.compare.compare.run_comparison", lambda *_, **__: done)
    assert main(["compare", "--config", "census-compare"]) == code


@pytest.mark.usefixtures("here")
def test_a_comparison_gets_its_flags_and_with_json_prints_messages_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ple_rec.analysis.compare.compare import ComparisonResult

    received: dict[str, object] = {}

    def trained(*_: object, **flags: object) -> ComparisonResult:
        received.update(flags)
        logging.getLogger("ple_rec").info("one run is left")
        return ComparisonResult("{}", [], [])

    monkeypatch.setattr("ple_rec.analysis.compare.compare.run_comparison", trained)
    argv = ["compare", "--config", "census-compare", "--jobs", "3", "--share", "1/4", "--overwrite", "--dry-run"]
    assert main([*argv, "--variants", "ple", "mmoe", "--json"]) == 0
    assert capsys.readouterr() == ("{}\n", "one run is left\n")
    del received["report"]
    assert received == {
        "jobs": 3,
        "share": (1, 4),
        "overwrite": True,
        "dry_run": True,
        "trained_variants": ("ple", "mmoe"),
        "reuse": (),
    }


@pytest.mark.parametrize("ranks", ["0", "-1", "two", "1.5", ""])
def test_ranks_is_a_positive_int(capsys: pytest.CaptureFixture[str], ranks: str) -> None:
    assert main(["train", "--config", "tiny.toml", f"--ranks={ranks}"]) == 2
    text = f"ple-rec: --ranks: got {ranks!r}; expected a positive int. Fix: run `ple-rec train --help`"
    assert said(capsys) == text


def no_directory(here: Path) -> None:
    shutil.rmtree(here / "data")


def no_success(here: Path) -> None:
    (here / "data" / "_SUCCESS").unlink()


def no_column(here: Path) -> None:
    shutil.rmtree(here / "data")
    write_tiny(here, without="click")


def a_run_is_there(here: Path) -> None:
    (here / "runs" / "tiny").mkdir(parents=True)
    for name in ("config.toml", "metrics.json"):
        (here / "runs" / "tiny" / name).touch()


def foreign_files(here: Path) -> None:
    (here / "runs" / "tiny").mkdir(parents=True)
    (here / "runs" / "tiny" / "thesis.tex").touch()


def nothing(here: Path) -> None:
    """Only the arguments are wrong."""


BAD_TRAINING = {
    "no dataset directory": (
        no_directory,
        [],
        2,
        "data: no such directory in {here}; a dataset directory is needed. "
        "Fix: make it with `ple-rec prep ... --out data`",
    ),
    "no _SUCCESS": (
        no_success,
        [],
        3,
        "data: no _SUCCESS file; a dataset directory without it is incomplete. "
        "Fix: move it away, and make it again with `ple-rec prep ... --out data`",
    ),
    "unknown variant": (
        nothing,
        ["--set", "model.variant=pel"],
        2,
        '--set: 1 problem\n  model.variant: got "pel"; did you mean "ple"? '
        "(known: asymmetric, cgc, cross_stitch, customized, hard_sharing, ml_mmoe, mmoe, ple, single_task, sluice)",
    ),
    "no label column": (
        no_column,
        [],
        3,
        "data/train/part-00000.parquet: no column click; schema.toml lists it. "
        "Fix: write the column, or remove it from schema.toml",
    ),
    "unknown task": (
        nothing,
        ["--set", 'tasks=[{name = "clik"}]'],
        2,
        "tasks: got 'clik'; data has click, like. Fix: did you mean 'click'?",
    ),
    "dim": (
        nothing,
        ["--set", "embeddings.dim=6"],
        2,
        "--set: 1 problem\n  embeddings.dim: got 6; must be > 0 and a multiple of 4",
    ),
    "two problems": (
        nothing,
        ["--set", "embeddings.dim=6", "--set", "train.batchsize=2"],
        2,
        "--set: 2 problems\n"
        "  embeddings.dim: got 6; must be > 0 and a multiple of 4\n"
        "  train.batchsize: unknown key; did you mean `batch_size`?",
    ),
    "more ranks than row groups": (
        nothing,
        ["--ranks", "16", "--set", "data.virtual_shards=16"],
        2,
        "data/train: 8 row group(s) for 16 ranks; each rank must read at least one row group. "
        "Fix: use fewer ranks, or prepare the dataset with smaller row groups",
    ),
    "ranks do not divide the shards": (
        nothing,
        ["--ranks", "3"],
        2,
        "data.virtual_shards: got 2 with 3 ranks; it must be a multiple of the number of ranks, so that "
        "all ranks read equally many shards. Fix: set data.virtual_shards = 3 and a global batch of 15, or use "
        "another number of ranks",
    ),
    "too few steps to profile": (
        nothing,
        ["--profile", "--set", "train.epochs=", "--set", "train.steps=2"],
        2,
        "--profile: 2 step(s) to train; a profile needs at least 3 steps, to warm up, to time and to trace one "
        "each; a full profile has 33. Fix: train longer (--set train.epochs= --set train.steps=33), or leave out "
        "--profile",
    ),
    "already a run": (
        a_run_is_there,
        [],
        2,
        "runs/tiny: already holds a run; a run is never overwritten unasked. "
        "Fix: go on with --resume, replace it with --overwrite, or give another --run-dir",
    ),
    "not a run": (
        foreign_files,
        ["--overwrite"],
        2,
        "runs/tiny: holds thesis.tex, which no run wrote; a run directory is empty or a run's. "
        "Fix: give another --run-dir",
    ),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_training_is_refused_before_it_starts(here: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    spoil, flags, code, message = BAD_TRAINING[case]
    spoil(here)
    before = sorted(here.rglob("*"))
    assert main(["train", "--config", "tiny.toml", *flags]) == code
    text = said(capsys)
    assert text == f"ple-rec: {message}".replace("{here}", str(here))
    assert sorted(here.rglob("*")) == before


def test_a_run_directory_in_use(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run_is_there(here)
    with (here / "runs" / "tiny" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        assert main(["train", "--config", "tiny.toml", "--overwrite"]) == 2
    assert said(capsys) == (
        "ple-rec: runs/tiny: in use by process 4711; one process at a time trains in a run directory. "
        "Fix: wait for it, stop it, or give another --run-dir"
    )
    assert (here / "runs" / "tiny" / "config.toml").exists()


def test_a_label_outside_its_values_leaves_nothing_that_looks_complete(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(here / "data")
    write_tiny(here, wrong_group=LAST_GROUP)
    assert main(["train", "--config", "tiny.toml"]) == 3
    place = f"data/train/part-00000.parquet, row group {LAST_GROUP}, column 'click', row 5"
    assert said(capsys).startswith(f"ple-rec: {place}: label 2.0 of task 'click'; a binary label is 0 or 1. Fix: ")
    left = {path.name for path in (here / "runs" / "tiny").iterdir()}
    assert left == {".lock", "config.toml", "plan.json", "train.jsonl"}
    assert main(["evaluate", "runs/tiny"]) == 2
    assert said(capsys) == (
        "ple-rec: runs/tiny/checkpoints: no checkpoint 'best'; there are none. "
        "Fix: name one of them, or train the run first"
    )


def test_divergence_ends_with_4_and_no_checkpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--set", "dense_optimizer.learning_rate=1e30", "--run-dir", "elsewhere"]
    assert main(["train", "--config", "tiny.toml", *flags]) == 4
    text = said(capsys)
    assert text.startswith("ple-rec: step 2: the losses of tasks click, like are not finite")
    assert "not finite; training stops, since this step has already updated the tables. Fix: " in text
    assert "\n" not in text
    assert not (here / "elsewhere" / "checkpoints").exists()
    assert (here / "elsewhere" / "report.html").is_file()
    assert not (here / "runs").exists()


def test_train_and_evaluate(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "tiny.toml", "--set", "train.epochs=2", "--set", "seed=3"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    run = here / "runs" / "tiny"
    config = tomllib.loads((run / "config.toml").read_text())
    assert (config["train"]["epochs"], config["seed"]) == (2, 3)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 32
    assert f"report: {Path('runs/tiny/report.html')}" in output.out

    assert main(["evaluate", "runs/tiny"]) == 0
    table = capsys.readouterr().out.rstrip("\n")
    assert table.split("\n\n")[0] in output.out
    assert table.startswith("test ")

    assert main(["evaluate", "runs/tiny", "--split", "valid", "--json", "--checkpoint", "latest"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"]["tasks"].keys() == {"click", "like"}

    assert main(["evaluate", "tiny", "--set", "model.levels[0].task_experts=2"]) == 2  # as `ple-rec runs` names it
    assert said(capsys).startswith(
        "ple-rec: --set model.levels[0].task_experts: was 1, is 2; a run is evaluated as it was trained; only "
        "data.path, data.prefetch, data.buffer_mib, evaluation, runtime, "
    )
    assert check_input(["evaluate", "tiny"], lambda: [2]) == 0  # as before its ranks start
    assert main(["evaluate", "runs/tiny", "--checkpoint", "step-7"]) == 2
    assert said(capsys) == (
        "ple-rec: runs/tiny/checkpoints: no checkpoint 'step-7'; there are best, latest, step-16, step-32. "
        "Fix: name one of them, or train the run first"
    )
    assert main(["train", "--config", "tiny.toml"]) == 2
    assert "runs/tiny: already holds a run" in said(capsys)
    assert json.loads((run / "metrics.json").read_text()) == metrics

    assert main(["runs", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert [listed[key] for key in ("run", "status", "step", "total_steps")] == ["tiny", "finished", 32, 32]
    assert listed["splits"]["test"] == metrics["test"]["tasks"]
    assert main(["diff", "tiny", "runs/tiny"]) == 0
    assert "\n\nsame configuration\n\n" in capsys.readouterr().out
    (run / "metrics.json").unlink()
    assert main(["runs", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert [listed[key] for key in ("status", "step", "total_steps", "splits")] == ["interrupted", 32, 32, {}]
    assert listed["best_step"] == metrics["best_step"]
    assert listed["last_validation"].keys() == {"click", "like"}


def test_resume_takes_the_configuration_of_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "runs" / "tiny").mkdir(parents=True)
    (here / "runs" / "tiny" / "config.toml").write_text("nothing = 1\n")
    assert main(["train", "--run-dir", "runs/tiny", "--resume"]) == 2
    assert said(capsys).startswith("ple-rec: runs/tiny/config.toml: ")


def test_one_command_line_begins_goes_on_and_ends(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, run = ["train", "--config", "tiny.toml", "--auto-resume"], here / "runs" / "tiny"
    assert main(command) == 0
    assert "goes on" not in capsys.readouterr().out
    results = (run / "metrics.json").stat()
    assert main(command) == 0
    assert capsys.readouterr().out == "runs/tiny: has finished, step 16: nothing is left to do\n"
    assert (run / "metrics.json").stat() == results
    assert main([*command, "--set", "seed=5"]) == 2
    assert said(capsys).startswith("ple-rec: runs/tiny/config.toml: seed was 0, is 5; --resume goes on with the same ")
    assert main([*command, "--set", "train.epochs=2"]) == 0
    said_then = capsys.readouterr().out
    assert "goes on from runs/tiny/checkpoints/step-16\n" in said_then
    assert "this run had 16 steps and now has 32, since its configuration has changed\n" in said_then
    assert json.loads((run / "metrics.json").read_text())["steps"] == 32


def test_a_run_that_was_killed_before_its_first_checkpoint_begins(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "config.toml").write_text(dump_toml(load_config(RunConfig, "tiny.toml")))
    length = ["--set", "train.epochs=", "--set", "train.steps=2"]
    assert main(["train", "--config", "tiny.toml", "--auto-resume", *length]) == 0
    assert "no checkpoint yet: starts from the beginning\n" in capsys.readouterr().out


@pytest.mark.parametrize("saved", [False, True])
def test_an_interrupted_run_says_how_it_goes_on(
    here: Path, saved: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any, **more: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_evaluate_splits" if saved else "train_steps", interrupted)
    assert main(["train", "--config", "tiny.toml"]) == 130
    kept = "step-16 is saved; go on with: ple-rec train --run-dir runs/tiny --resume"
    found = capsys.readouterr().err.splitlines()
    assert found == [f"ple-rec: runs/tiny: {kept if saved else 'no checkpoint is saved yet'}", "ple-rec: interrupted"]


def test_a_run_that_is_no_better_than_its_start_says_so(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", "--config", "tiny.toml"]) == 0
    assert "no evaluation was better" not in capsys.readouterr().out
    still = ["--set", "dense_optimizer.learning_rate=1e-30", "--set", "table_optimizer.learning_rate=1e-30"]
    assert main(["train", "--config", "tiny.toml", "--init-from", "runs/tiny", "--run-dir", "next", *still]) == 0
    record = json.loads(Path("next/train.jsonl").read_text().splitlines()[0])
    loss = f"{record['loss']:.4f}"
    assert capsys.readouterr().out.splitlines()[-3] == (
        f"warning: no evaluation was better than the weights this run started from: loss {loss} there, {loss} at best "
        "(step 16). Fix: keep the run it started from, or train with lower learning rates"
    )


def test_the_task_that_is_the_whole_loss_is_named_at_the_end(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_WORSE_RATIO", 0.0)
    assert main(["train", "--config", "tiny.toml", "--set", "tasks=[{name='click', weight=1e6}, {name='like'}]"]) == 0
    fixes = [line.partition("Fix: ")[2] for line in capsys.readouterr().out.splitlines() if "always predicting" in line]
    assert len(fixes) == 2
    assert all(fix.startswith("click is 100.00% of the loss: prepare its label in a larger unit") for fix in fixes)


def test_a_reader_that_has_seen_enough_is_no_error(here: Path, repository: Path) -> None:
    (here / "runs" / "begun").mkdir(parents=True)
    (here / "runs" / "begun" / "config.toml").write_text(dump_toml(load_config(RunConfig, "tiny.toml")))
    with subprocess.Popen(
        [sys.executable, "-m", "ple_rec", "runs"],
        cwd=here,
        env=environment(repository),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_without_a_verb_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "a first run:\n  ple-rec doctor\n" in capsys.readouterr().err


def test_epochs_and_steps_exclude_each_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "tiny.toml", "--set", "train.epochs=1", "--set", "train.steps=1"]) == 2
    assert said(capsys) == (
        "ple-rec: --set: 1 problem\n"
        "  train: give exactly one of `epochs` and `steps`, got both; take one back by --set train.epochs= or --set "
        "train.steps="
    )
