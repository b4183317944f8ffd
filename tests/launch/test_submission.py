"""The check at submission: what the job would refuse is refused in its words, before anything is submitted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torchx.specs.finder import ComponentValidationException

import launch.components as components
from ple_rec import agent
from ple_rec.cli import submission
from ple_rec.cli.submission import check_input, reason_not_shared
from ple_rec.config.load import dump_toml, load_config, with_values
from ple_rec.config.run import RunConfig
from tests.tiny import environment, write_tiny

ANYWAY = (
    "\n (found before submission; if this does not hold on the job's hosts, submit without a check by --check False)"
)
NO_FOLDER = "no folder plans; the plan goes into a folder that exists. Fix: make it, or give another"
SHARED = (
    "hosts must see these files under the same path. Fix: put them on storage that all hosts mount (NFS, Lustre, "
    "EFS), or give addresses of an object store: --run_dir, data.path, checkpoint.path, --init_from, --plan\n"
)
MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
tmpfs /run tmpfs rw 0 0
server:/home /home nfs4 rw 0 0
server:/work /tmp/our\\040work nfs4 rw 0 0
tmpfs /scratch tmpfs rw 0 0
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Path:
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    return tmp_path


def test_torchx_prints_it_without_a_traceback(repository: Path, here: Path) -> None:
    torchx = [sys.executable, "-c", "from torchx.cli.main import main; main()", "run", "-s", "slurm", "--workspace="]
    argv = ["--config", "tiny.toml", "--device", "cpu", "--out", "plans/plan.json"]
    command = [*torchx, f"{repository / 'launch' / 'components.py'}:plan", *argv]
    done = subprocess.run(
        command, env=environment(repository), capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"got errors: \n plans/plan.json: {NO_FOLDER}" in done.stderr
    assert done.stderr.endswith(f"{ANYWAY}\n")
    assert "Traceback" not in done.stderr


def test_shares_that_would_write_into_a_store_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compare", "--config", "census-compare", "--runs", "s3://bucket/compare", "--share", "0/2"]
    assert submission.check_submission([], argv) == 2
    assert capsys.readouterr().err.startswith(
        "ple-rec: --share --runs: got s3://bucket/compare; shares of a comparison "
    )


def test_prep_and_plan_are_checked_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ComponentValidationException) as caught:
        components.plan("tiny.toml", out="plans/plan.json", device="cpu")
    assert str(caught.value) == f"plans/plan.json: {NO_FOLDER}{ANYWAY}"
    with pytest.raises(ComponentValidationException, match=r"^--device: got 'h1000'; did you mean \"h100\"\?"):
        components.plan("tiny.toml", device="h1000")
    assert agent.main(["--check", "--", "plan", "--config", "tiny.toml", "--device", "cpu"]) == 0
    assert agent.main(["--check", "--", "prep", "feed.toml", "--out", "data/feed"]) == 2
    assert capsys.readouterr().err.startswith(f"ple-rec: feed.toml: no such file in {here}; it is a TOML file, or one ")
    assert agent.main(["--check", "--", "prep", "kuairand", "--out", "data/feed", "--from", "raw"]) == 2
    assert (
        capsys.readouterr().err
        == "ple-rec: raw: no such file or folder; --from names the raw files. Fix: check the path\n"
    )
    assert agent.main(["--check", "--", "prep", "census", "--out", "data/feed", "--from", "raw"]) == 2
    told = f"ple-rec: --from: no raw in {here}; it is the folder of the raw files. Fix: give their folder\n"
    assert capsys.readouterr().err == told


def test_an_image_and_no_check_are_not_looked_into(here: Path) -> None:
    assert components.train("nix.toml", image="registry/ple-rec:1").roles[0].entrypoint == "python"
    assert components.train("nix.toml", check=False).roles[0].entrypoint == sys.executable


def test_a_python_without_ple_rec(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = here / "python"
    python.write_text("#!/bin/sh\necho 'No module named ple_rec' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(ComponentValidationException) as caught:
        components.train("tiny.toml", python=str(python))
    assert str(caught.value) == (
        f"--python {python}; the check of the input ended with exit code 1:\nNo module named ple_rec\n. "
        "Fix: name the Python that has ple-rec by --python, or submit without a check by --check False"
    )


def test_a_login_node_without_the_gpus_driver(repository: Path, here: Path) -> None:
    """FBGEMM's CUDA library does not load there: what needs no torch is checked, and the rest is named."""
    (here / "broken").mkdir()
    (here / "broken" / "torch.py").write_text("raise OSError('libcuda.so.1: no such file')\n")
    variables = environment(repository, PYTHONPATH=f"{here / 'broken'}:{repository}")

    def check(*verb: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "ple_rec.agent", "--check", "--nnodes", "1", "--", *verb]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert check("train", "--config", "tiny.toml") == (
        0,
        "ple-rec: torch does not load here (libcuda.so.1: no such file): the job itself checks dataset, sizes for the "
        "ranks and content of the run directory\n",
    )
    code, said = check("train", "--config", "tiny.toml", "--set", "train.epoch=1")
    assert code == 2
    assert "train.epoch: unknown key; did you mean `epochs`?" in said


def test_storage_that_every_host_has_for_itself(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submission, "reason_not_shared", lambda path: f"lies below {here}")
    two, verb = ["--check", "--nnodes", "1:2"], ["--", "train", "--config", "tiny.toml"]
    assert agent.main([*two, *verb]) == 2
    assert capsys.readouterr().err == f"ple-rec: runs/tiny and data: lies below {here}; 1:2 {SHARED}"
    assert agent.main(["--check", "--nnodes", "1", *verb]) == 0
    assert capsys.readouterr().err == ""

    before = here / "runs" / "before"
    before.mkdir(parents=True)
    config = with_values(load_config(RunConfig, "tiny.toml"), {"checkpoint.path": "/ck/{run}"})
    (before / "config.toml").write_text(dump_toml(config))
    (before / "metrics.json").touch()
    more = ["--init-from", "before:latest", "--plan", "plan.json", "--set", "checkpoint.path=/ck"]
    assert agent.main([*two, *verb, *more]) == 2
    assert capsys.readouterr().err == (
        f"ple-rec: runs/tiny and /ck and data and runs/before and /ck/before and plan.json: lies below {here}; 1:2 "
        f"{SHARED}"
    )
    assert agent.main([*two, "--", "evaluate", "before"]) == 2
    assert capsys.readouterr().err == f"ple-rec: runs/before and /ck/before and data: lies below {here}; 1:2 {SHARED}"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/home/me/runs", None),
        ("/srv/runs", None),
        ("/tmp/our work/runs", None),
        ("/tmp/runs", "lies below /tmp, which every host has for itself"),
        ("/var/tmp/runs", "lies below /var/tmp, which every host has for itself"),
        ("/dev/shm/runs", "lies in this host's memory (tmpfs at /dev/shm)"),
        ("/scratch/runs", "lies in this host's memory (tmpfs at /scratch)"),
        ("/home/me/../../tmp/runs", "lies below /tmp, which every host has for itself"),
    ],
)
def test_where_other_hosts_see_nothing(path: str, why: str | None) -> None:
    assert reason_not_shared(Path(path), MOUNTS.splitlines()) == why


def test_a_job_that_could_not_go_on_with_fewer_hosts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb = ["train", "--config", "tiny.toml"]
    assert check_input(verb, lambda: [2, 1]) == 0
    assert check_input([*verb, "--set", "data.virtual_shards=2"], lambda: [2, 3]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ple-rec: on 3 ranks, after the loss of hosts: data.virtual_shards: got 2 with 3 ranks; ")
    assert said.endswith("; the value must be right for every number of ranks, or change the hosts (--min_nnodes)\n")
    per_rank = ["--set", "train.batch_size=", "--set", "train.batch_size_per_rank=8"]
    assert check_input([*verb, *per_rank], lambda: [2, 1]) == 2
    assert capsys.readouterr().err == (
        "ple-rec: train.batch_size_per_rank: with 1 to 2 ranks; after the loss of a host, a run keeps its number of "
        "samples a step, however many ranks are left. Fix: --set train.batch_size=16 --set train.batch_size_per_rank=\n"
    )
