"""`ple-rec plan` and `train --plan` from the command line: what they print, write and refuse."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from ple_rec.cli import main
from ple_rec.cli.app import parse
from ple_rec.config.cluster import PRESETS
from ple_rec.config.plan import load_plan
from ple_rec.planning.text import ms_text
from tests.tiny import write_tiny
from tests.training.small import on_ranks

RECIPE = ["plan", "--config", "tencent-ple"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `data/` and `tiny.toml`."""
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_plan_is_printed_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*RECIPE, "--hosts", "2", "--gpus-per-host", "4", "--device", "h100"]
    assert main([*argv, "--out", "plan.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    plan = load_plan(Path("plan.json"))
    assert plan.cluster.world_size == 8
    assert out.splitlines()[0].startswith(
        "tencent-ple: 24 tables, 49,629,152 rows, 2.96 GiB, rowwise_adagrad; 2 hosts x 4 h100 = 8 ranks, 4,096 samples"
    )
    user = next(line for line in out.splitlines() if line.startswith("user_id "))
    assert user.split()[:5] == ["user_id", "46,926,001", "16", "2.80", "GiB"]
    ranks = [line for line in out.splitlines() if line[:2] in {f"{rank} " for rank in range(8)}]
    assert len(ranks) == 8
    assert plan.estimate is not None
    assert re.search(
        rf"^step {plan.estimate.step_ms:.3f} ms \(\S+ to \S+\), bound by {plan.estimate.bound} \(", out, re.M
    )
    assert out.splitlines()[1] == "rows of the schema tencent (data/tencent-synthetic is not there)"
    assert out.endswith("plan: plan.json\npage: plan.html\n")
    assert "tencent-ple" in Path("plan.html").read_text()
    assert main([*argv, "--out", "plan.json"]) == 0  # a plan may be written over
    capsys.readouterr()
    Path("other.html").touch()
    assert main([*argv, "--out", "other.json"]) == 2
    assert capsys.readouterr().err.startswith(
        "ple-rec: other.html: exists without its plan; a page is only overwritten"
    )
    capsys.readouterr()

    assert main([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (json.loads(Path("plan.json").read_text()), "")

    assert main([*argv, "--json", "--roofline"]) == 2
    assert capsys.readouterr().err.startswith("ple-rec: --roofline: with --json; it adds text to the plan's tables.")
    assert main([*RECIPE, "--device", "cpu", "--roofline"]) == 2
    assert capsys.readouterr().err == (
        "ple-rec: --roofline: for 1 host x 1 CPU rank; it is the lower bound of a step on GPUs. Fix: give "
        "--device a100-40, a100-80, h100, h200, h20, l40s or b200, or leave it out\n"
    )

    assert main(["plan", "--compare", "plan.json", "plan.json", "--json"]) == 2
    assert capsys.readouterr().err.startswith("ple-rec: --compare --json: both given; --compare only reads two ")
    for flag, value in (("--gpus-per-host", "4"), ("--set", "embeddings.dim=8"), ("--samples-per-second", "5")):
        assert main(["plan", "--compare", "plan.json", "plan.json", flag, value]) == 2
        assert capsys.readouterr().err.startswith(f"ple-rec: --compare {flag}: both given; ")
    assert main(["plan", "--compare", "plan.json", "plan.json"]) == 0
    assert capsys.readouterr().out.endswith("every table lies where it did\n")


def test_what_does_not_fit_ends_with_2_and_three_ways_out(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*RECIPE, "--gpus-per-host", "2", "--device", "a100-80", "--set", "embeddings.dim=1024"]
    assert main([*argv, "--set", "embeddings.kernel=fused", "--out", "plan.json"]) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[0].startswith(
        "ple-rec: embeddings.dim: table user_id takes 89.62 GiB of HBM on each rank, of 66.32 GiB allowed: 23.30 GiB "
        "too much (row_wise, fused, its smallest layout); "
    )
    assert out.splitlines()[0] == "3 changes with which it fits, the cheapest first:"
    assert [line[:5] for line in out.splitlines()[1:]] == ["  1. ", "  2. ", "  3. "]
    assert not Path("plan.json").exists()


def test_the_smallest_cluster_is_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*RECIPE, "--device", "a100-80", "--gpus-per-host", "2", "--set", "embeddings.dim=512"]
    assert main([*argv, "--set", "embeddings.kernel=fused", "--find"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-4].startswith("step ")
    assert "1 host: " in out
    assert main([*RECIPE, "--device", "a100-80", "--find", "--samples-per-second", "1e15"]) == 2
    assert capsys.readouterr().err == (
        "ple-rec: --find: no number of hosts with 8 a100-80 each is enough at 1,000,000,000,000,000 samples/s; up to "
        "128 hosts (1,024 ranks) were considered. Fix: ask for less, or for another --device; `ple-rec plan --hosts N` "
        "says what bounds the step\n"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["plan"], "--config: missing; it names a TOML file or a recipe. Fix: give one, e.g. --config tencent-ple"),
        (
            RECIPE,
            "--device: missing; a plan needs the kind of its hosts. Fix: give a100-40, a100-80, h100, h200, h20, "
            "l40s, b200 or cpu",
        ),
        (
            [*RECIPE, "--device", "h100", "--hosts", "129"],
            "--hosts 129: 1,032 ranks; up to 1,024 ranks are planned for. Fix: give fewer hosts, or fewer ranks on "
            "each",
        ),
        (
            [*RECIPE, "--device", "h100", "--set", "topology.device=a100-40"],
            "--device: got h100; [topology] of tencent-ple says a100-40; the figures of [topology] are those of that "
            "device. Fix: leave out --device, or --set topology.device=h100",
        ),
        (
            [*RECIPE, "--device", "h100", "--samples-per-second", "5"],
            "--samples-per-second: 5 without --find; it is the rate that the hosts of --find must reach. Fix: "
            "add --find, or leave it out; every plan shows its own rate",
        ),
        (
            [*RECIPE, "--device", "h100", "--find", "--hosts", "2"],
            "--find: with --hosts 2; it searches for the number of hosts. Fix: leave out --hosts",
        ),
        (
            [*RECIPE, "--device", "h100", "--rows", "usr_id=3e6"],
            '--rows: got "usr_id"; did you mean "user_id"? (known: USERS). Fix: name a table of the dataset',
        ),
        (
            [*RECIPE, "--device", "h100", "--out", "tiny.toml"],
            'tiny.toml: ends in ".toml"; a plan is a .json file, its page the .html beside it. Fix: give FILE.json',
        ),
        (
            [*RECIPE, "--device", "h100", "--out", "no/plan.json"],
            "no/plan.json: no folder no; the plan goes into a folder that exists. Fix: make it, or give another",
        ),
        (
            [*RECIPE, "--device", "h100", "--out", "data/stats.json"],
            "data/stats.json: exists and is no plan (no version); only a plan is overwritten. Fix: give another --out",
        ),
        (
            ["plan", "--config", "census-ple", "--device", "h100"],
            "data.path: no dataset directory data/census; a plan needs the number of rows of each table. Fix: prepare "
            "it with `ple-rec prep`, or name a schema.toml by data.described_by",
        ),
        (
            [*RECIPE, "--device", "h100", "--set", "data.described_by=nowhere"],
            'data.described_by: got "nowhere", which is no file; it names a schema.toml, or one of tencent. Fix: '
            "correct the path or the name",
        ),
        (
            [*RECIPE, "--device", "cpu", "--set", "topology.hbm_gib=80"],
            "topology.hbm_gib: got 80; CPU hosts have no GPU and no HBM. Fix: remove it",
        ),
        (
            [*RECIPE, "--device", "cpu", "--set", "embeddings.tables.usr_id.dim=8"],
            "embeddings.tables: no feature of this run reads table usr_id; it names tables that the run reads; did you "
            'mean "user_id"? (known: USERS). Fix: correct or remove the entry',
        ),
        (
            [*RECIPE, "--device", "cpu", "--set", "table_optimizer.kind=adam"],
            'table_optimizer.kind: got "adam" on a CPU; FBGEMM\'s CPU kernels support only sgd, adagrad and '
            'rowwise_adagrad. Fix: set table_optimizer.kind = "rowwise_adagrad"',
        ),
    ],
)
def test_wrong_input_is_refused(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    said = re.sub(r"\(known: [^)]*\)", "(known: USERS)", capsys.readouterr().err)
    assert said == f"ple-rec: {message}\n"


def test_the_smallest_cluster_that_uses_the_hosts_memory_stands_beside_the_one_that_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tight = ["--device", "h100", "--gpus-per-host", "2", "--set", "topology.hbm_gib=1.5"]
    assert main([*RECIPE, *tight, "--find"]) == 0
    said = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert re.sub(r"[\d,]+ samples/s", "N samples/s", "\n".join(said[:2])) == (
        "1 host, with 2.80 GiB in the hosts' memory (UVM): user_id; N samples/s\n"
        "2 hosts with every table in HBM (--set embeddings.kernel=fused); N samples/s"
    )
    assert main([*RECIPE, *tight, "--set", "embeddings.kernel=fused", "--find"]) == 0
    assert " with every table in HBM" not in capsys.readouterr().out


def test_few_samples_a_rank_are_bound_by_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--device", "h100", "--set", "train.batch_size_per_rank=", "--set", "train.batch_size=504"]
    assert main([*RECIPE, *few, "--gpus-per-host", "8", "--find"]) == 0
    out = capsys.readouterr().out
    assert "bound by host (issuing the operators of a step)\n" in out
    assert "1 host: 144,000 samples/s\n" in out  # 504 samples in 2.5 + 1 ms
    assert main([*RECIPE, *few, "--gpus-per-host", "2", "--find", "--samples-per-second", "1e15"]) == 2
    assert "up to 252 hosts (504 ranks, each with 1 of the 504 samples of a step) were" in capsys.readouterr().err


def test_rows_that_are_planned_for_lead_to_the_capacity_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RECIPE, "--device", "h100", "--rows", "user_id=60e6", "--rows", "tag=700"]) == 0
    assert capsys.readouterr().out.endswith(
        "\nto train with so many rows, prepare the dataset with tables.user_id.capacity = 60000000, "
        "tables.tag.capacity = 700 in its prep.toml\n"
    )


def test_what_the_configuration_decides_is_told_after_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    uvm = ["--set", "embeddings.tables.user_id.kernel=fused_uvm_caching"]
    assert main([*RECIPE, "--device", "h100", "--gpus-per-host", "2", *uvm]) == 0
    out = capsys.readouterr().out
    assert out.endswith("\n2.80 GiB in the hosts' memory (UVM): user_id, as the configuration asks\n")
    tight = ["--set", "topology.hbm_gib=1.5"]
    assert main([*RECIPE, "--device", "h100", "--gpus-per-host", "2", *tight]) == 0
    said = "2.80 GiB in the hosts' memory (UVM): user_id, since HBM has no room for all tables"
    assert said in capsys.readouterr().out.splitlines()
    assert main([*RECIPE, "--device", "cpu", "--set", "embeddings.sharding=column_wise"]) == 0
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith("column_wise with rowwise_adagrad is another optimizer: ")
    assert second.startswith("the hosts are a guess at a common CPU server: ")
    assert main([*RECIPE, "--device", "h100", "--hosts", "16"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(
        r"the busiest ranks have [\w, ]+, which cannot be split: fewer rows than ranks; \d+ of 128 ranks hold ", last
    )


def test_a_schema_can_be_named_though_the_data_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["plan", "--config", "tiny.toml", "--device", "cpu"]
    assert main(tiny) == 0
    assert "\nrows of data\n" in capsys.readouterr().out
    Path("schema.toml").write_text(Path("data/schema.toml").read_text().replace("rows = 50", "rows = 5000", 1))
    assert main([*tiny, "--schema", "schema.toml"]) == 0
    assert "1 tables, 5,000 rows" in capsys.readouterr().out


def test_a_plan_is_of_rows_and_samples_that_do_not_exist_yet(capsys: pytest.CaptureFixture[str]) -> None:
    later = ["--rows", "user_id=300e6", "--rows", "video_id=5M", "--samples", "5e9"]
    assert main([*RECIPE, "--device", "h100", *later, "--out", "plan.json"]) == 0
    out = capsys.readouterr().out
    assert "tencent-ple: 24 tables, 305,021,150 rows, 18.2 GiB, " in out
    assert "\nrows of the schema tencent (data/tencent-synthetic is not there), but 300,000,000 for user_id, " in out
    assert "; an epoch of 5,000,000,000 samples takes " in out
    plan = load_plan(Path("plan.json"))
    assert {t.table: t.rows for t in plan.tables if t.rows > 10**6} == {"user_id": 300 * 10**6, "video_id": 5 * 10**6}
    assert plan.estimate is not None
    assert plan.estimate.epoch_seconds == pytest.approx(5e9 / plan.estimate.samples_per_second, rel=1e-5)
    tiny = ["plan", "--config", "tiny.toml", "--device", "cpu"]  # whose dataset is there, and smaller
    assert main([*tiny, "--rows", "user=70e3"]) == 0
    assert "1 tables, 70,000 rows" in capsys.readouterr().out


def test_a_table_that_cannot_train_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    told = "train will refuse table user: 3,000,000,000 rows; ids are int32, so it has at most 2,147,483,648"
    for rows in ("3e9", "2147483648"):
        assert main(["plan", "--config", "tiny.toml", "--device", "h100", "--rows", f"user={rows}"]) == 0
        assert (told in capsys.readouterr().out.splitlines()) is (rows == "3e9")


def test_times_below_a_tenth_of_a_millisecond_keep_their_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert [ms_text(value) for value in (0.0, 1.23e-6, 0.00012345, 0.0999, 0.1, 12.3456)] == [
        *("0.000", "1.23e-06", "0.000123", "0.0999", "0.100", "12.346"),
    ]
    assert main(["plan", "--config", "tiny.toml", "--device", "h100"]) == 0
    head, *lines = (
        line.split() for line in capsys.readouterr().out.splitlines() if "fused" in line or "kernel" in line
    )
    assert head[-1] == "ms"
    assert all(float(line[-1]) > 0 for line in lines)


@pytest.mark.parametrize(
    ("text", "rows"),
    [("50m", 50_000_000), ("50M", 50_000_000), ("50,000,000", 50_000_000), ("1G", 10**9), ("2k", 2000), ("7e3", 7000)],
)
def test_rows_read_as_people_write_them(text: str, rows: int) -> None:
    assert parse([*RECIPE, "--rows", f"user={text}"]).values["options"].rows == (("user", rows),)


@pytest.mark.parametrize("text", ["1,5", "50,00", "1,000m,000", "5x"])
def test_rows_of_two_meanings_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RECIPE, "--rows", f"user={text}"]) == 2
    assert "expected a number above 0, e.g. 20e6 or 20M" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rows", "user_id"], "--rows: got 'user_id'; expected TABLE=N, e.g. user_id=300e6"),
        (["--rows", "user_id=many"], "--rows: got 'many'; expected a number above 0, e.g. 20e6 or 20M"),
        (["--samples", "0.3"], "--samples: got '0.3'; expected 1 or more"),
    ],
)
def test_rows_and_samples_that_are_none_are_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RECIPE, *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_topology_of_the_configuration_is_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.toml").write_text('base = "tencent-ple"\n[topology]\ndevice = "a100-40"\nhbm_gib = 39.5\nreserve = 0.1\n')
    assert main(["plan", "--config", "own.toml", "--gpus-per-host", "2", "--json"]) == 0
    hardware = json.loads(capsys.readouterr().out)["cluster"]["hardware"]
    assert (hardware["device"], hardware["hbm_gib"], hardware["reserve"]) == ("a100-40", 39.5, 0.1)
    assert hardware["intra_host_gb_per_s"] == 300.0


@pytest.mark.parametrize("argv", [["--device", "a100"], ["--set", "topology.device=a100"]])
def test_a100_is_read_as_the_one_of_80_gb(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RECIPE, *argv, "--gpus-per-host", "2", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["cluster"]["hardware"] == PRESETS["a100-80"].model_dump()
    written["cluster"]["hardware"]["device"] = "a100"  # as plans were written before there were two
    Path("plan.json").write_text(json.dumps(written))
    assert load_plan(Path("plan.json")).cluster.hardware == PRESETS["a100-80"]


def _verb(rank: int, world_size: int, here: Path, argv: list[str]) -> int:
    os.chdir(here)
    return main(argv)


def test_a_run_trains_by_a_plan_and_goes_on_by_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    constraint = ["--set", "embeddings.sharding=table_wise"]
    cpu = ["--device", "cpu", "--ranks-per-host", "2"]
    assert main(["plan", "--config", "tiny.toml", *constraint, *cpu, "--out", "plan.json"]) == 0
    raw = json.loads(Path("plan.json").read_text())
    for table in raw["tables"]:
        table["rank"] = 1 - table["rank"]  # another than the planner's
    Path("plan.json").write_text(json.dumps(raw))
    train = ["train", "--config", "tiny.toml", *constraint]
    more = [*train, "--set", "train.epochs=2", "--run-dir", "runs/tiny", "--resume"]
    for argv in ([*train, "--plan", "plan.json"], more):
        assert on_ranks(_verb, 2, here, argv, init=False) == [0, 0]
        assert load_plan(Path("runs/tiny")) == load_plan(Path("plan.json"))
    before = {name: Path("runs/tiny", name).read_text() for name in ("plan.json", "config.toml")}
    capsys.readouterr()
    assert main([*more, "--set", "train.batch_size=32"]) == 2
    assert "a run of 16 samples a step on 2 rank(s); this one has 32 on 1; " in capsys.readouterr().err
    assert {name: Path("runs/tiny", name).read_text() for name in before} == before


def test_a_file_that_is_no_plan_is_refused_before_a_rank_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "tiny.toml", "--plan", "tiny.toml", "--ranks", "2"]) == 2
    assert capsys.readouterr().err.startswith("ple-rec: tiny.toml: not JSON (")
    cpu = ["--device", "cpu", "--ranks-per-host", "2"]
    assert main(["plan", "--config", "tiny.toml", *cpu, "--out", "plan.json"]) == 0
    capsys.readouterr()
    one, wide = ["--ranks", "1", "--set", "train.batch_size=8"], ["--ranks", "2", "--set", "embeddings.dim=8"]
    for change, said in (
        (one, "planned for 1 host x 2 CPU ranks, 2 rank(s); this run has 1; a plan can be used only with "),
        (wide, "table user was 50 x 4 fp32, is 50 x 8 fp32; "),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("WORLD_SIZE", raising=False)
            assert main(["train", "--config", "tiny.toml", "--plan", "plan.json", *change]) == 2
        assert capsys.readouterr().err.startswith(f"ple-rec: plan.json: {said}")
    assert not Path("runs").exists()


def test_past_64_ranks_the_plans_that_were_tried_are_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ple_rec.planning import run

    monkeypatch.setattr(run, "LINE_SECONDS", 0.0)  # else a line every ten seconds
    argv = [*RECIPE, "--device", "h100", "--hosts", "9", "--json"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    counts = [int(found) for found in re.findall(r"^planning 72 ranks: (\d+) plans tried, \d+ s$", err, re.MULTILINE)]
    assert counts == list(range(1, len(counts) + 1))
    assert len(counts) > 10
    assert json.loads(out)["rows_of"] == "the schema tencent (data/tencent-synthetic is not there)"
