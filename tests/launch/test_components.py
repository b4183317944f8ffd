"""The components as TorchX reads them: help, job descriptions, and what a shell on each host makes of them."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torchx.runner import get_runner
from torchx.specs import AppDef, macros
from torchx.specs.finder import ComponentValidationException, get_component

import launch.components as components
from ple_rec.cli.app import parse

NAMES = ("prep", "plan", "train", "evaluate", "compare", "predict")
TRAIN = ["--config", "census-ple"]
# The command line of the ranks, one argument a line: every scheduler must hand it over like this.
OVERRIDES = ['data.drop=["a", "b c"]', "name=it's-$HOME"]
VERB = ["--", "train", "--config", "my runs/a.toml", "--set", OVERRIDES[0], "--set", OVERRIDES[1]]
TWO_HOSTS = ["--config", "my runs/a.toml", "--nproc", "2", "--nnodes", "2", "--cpu", "6", "--env", "A=1,B=2"]


@pytest.fixture
def file(repository: Path) -> str:
    return str(repository / "launch" / "components.py")


@pytest.fixture
def lister(tmp_path: Path) -> Path:
    """A stand-in for Python that prints its arguments, one a line."""
    path = tmp_path / "list arguments"
    path.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    path.chmod(0o755)
    return path


def dryrun(file: str, scheduler: str, argv: list[str], name: str = "train", **cfg: Any) -> Any:
    """What TorchX would submit; no folder is built into an image, since that needs a Docker that runs."""
    unchecked = ["--check", "False", *argv]
    with get_runner() as runner:
        return runner.dryrun_component(f"{file}:{name}", unchecked, scheduler, cfg=cfg, workspace="").request


def replicas(request: Any) -> list[Any]:
    """Of the one role that the local scheduler is to start."""
    (found,) = request.role_params.values()
    return list(found)


def agent_arguments(endpoint: str, job: str) -> list[str]:
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-id", job, "--rdzv-endpoint", endpoint]
    head = ["-m", "ple_rec.agent", "--nproc-per-node", "2", "--nnodes", "2"]
    return [*head, *rendezvous, *VERB, "--set", "runtime.threads=3"]


@pytest.mark.parametrize("name", NAMES)
def test_help_explains_every_argument(file: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert get_component(f"{file}:{name}").validation_errors == []
    with pytest.raises(SystemExit) as ended:
        dryrun(file, "local_cwd", ["--help"], name)
    assert ended.value.code == 0
    usage, _, text = " ".join(capsys.readouterr().out.split()).partition(" [--help] ")
    assert usage.endswith(name)
    function = getattr(components, name)
    assert str(function.__doc__).splitlines()[0] in text
    for parameter in inspect.signature(function).parameters.values():
        shown = "str" if parameter.kind is parameter.VAR_POSITIONAL else f"--{parameter.name} (str|int|float)"
        assert re.search(rf" {shown} [A-Za-z]", text), parameter


def test_an_unknown_argument_is_refused(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dryrun(file, "local_cwd", ["--config", "x", "--nprocs", "2"])
    assert ended.value.code == 2
    assert "error: unrecognized arguments: --nprocs\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nproc", "-1"], "--nproc -1 --nnodes 1; both are at least 1. Fix: give 1 or more of each"),
        (["--nnodes", "0"], "--nproc 1 --nnodes 0; both are at least 1. Fix: give 1 or more of each"),
        (
            ["--nproc", "4", "--gpu", "2"],
            "--nproc 4 --gpu 2; each rank needs a GPU of its own. Fix: give --nproc 2, or more GPUs",
        ),
        (
            ["--python", "pyhton"],
            "--python pyhton; no such command on PATH. Fix: activate its environment, or give its path",
        ),
    ],
)
def test_a_job_that_cannot_run_is_refused(file: str, argv: list[str], message: str) -> None:
    # The one exception that `torchx run` shows without a traceback.
    with pytest.raises(ComponentValidationException) as caught:
        dryrun(file, "local_cwd", [*TRAIN, *argv])
    assert str(caught.value) == message


def test_one_host(file: str) -> None:
    argv = [
        *TRAIN,
        "--nproc",
        "2",
        "--overwrite",
        "True",
        "--run_dir",
        "out",
        "--init_from",
        "a:latest",
        "--plan",
        "a plan.json",
        "--profile",
        "True",
        "train.epochs=2",
    ]
    (replica,) = replicas(dryrun(file, "local_cwd", argv))
    verb = ["train", "--config", "census-ple", "--run-dir", "out", "--overwrite", "--init-from", "a:latest"]
    verb += ["--plan", "a plan.json", "--profile", "--set", "train.epochs=2"]
    head = [sys.executable, "-m", "ple_rec.agent", "--nproc-per-node", "2", "--nnodes", "1", "--standalone", "--"]
    assert replica.args == [*head, *verb, "--set", "runtime.threads=1"]
    assert replica.env["OMP_NUM_THREADS"] == "1"
    assert replica.cwd == str(Path.cwd())

    (replica,) = replicas(dryrun(file, "local_cwd", ["--run_dir", "runs/a", "--split", "valid"], "evaluate"))
    verb = ["evaluate", "runs/a", "--split", "valid", "--checkpoint", "best", "--set", "runtime.threads=2"]
    assert replica.args[replica.args.index("--") + 1 :] == verb
    assert replica.env["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("argv", "verb"),
    [
        (["--source", "raw"], ["--threads", "2", "--from", "raw", "--memory", "6144MiB"]),
        (
            ["--cpu", "4", "--memMB", "1000", "--memory", "1GiB", "--overwrite", "True", "--", *OVERRIDES],
            ["--threads", "4", "--overwrite", "--memory", "1GiB", "--set", OVERRIDES[0], "--set", OVERRIDES[1]],
        ),
        (
            ["--append", "day=9", "--parent", "a b"],
            ["--threads", "2", "--append", "day=9", "--parent", "a b", "--memory", "6144MiB"],
        ),
        (
            ["--engine", "spark", "--master", "spark://h:7077"],
            ["--threads", "2", "--master", "spark://h:7077", "--engine", "spark", "--memory", "6144MiB"],
        ),
        (["--rows", "1000"], ["--threads", "2", "--memory", "6144MiB", "--rows", "1000"]),
    ],
)
def test_prep_is_one_process(file: str, argv: list[str], verb: list[str]) -> None:
    (replica,) = replicas(dryrun(file, "local_cwd", ["--name", "feed.toml", "--out", "d", *argv], "prep"))
    assert replica.args == [sys.executable, "-m", "ple_rec", "prep", "feed.toml", "--out", "d", *verb]
    assert replica.cwd == str(Path.cwd())
    parse(replica.args[3:])


def test_prediction_is_one_process(file: str) -> None:
    argv = [
        "--run",
        "feed",
        "--out",
        "a b",
        "--data",
        "d",
        "--split",
        "valid,test",
        "--fusion",
        "f.toml",
        "--ids",
        "a,b",
    ]
    job = dryrun(file, "local_cwd", [*argv, "--overwrite", "True", "--", OVERRIDES[0]], "predict")
    (replica,) = replicas(job)
    verb = ["predict", "feed", "--out", "a b", "--checkpoint", "best", "--data", "d", "--fusion", "f.toml"]
    verb += ["--split", "valid", "test", "--ids", "a", "b", "--overwrite", "--set", OVERRIDES[0]]
    assert replica.args == [sys.executable, "-m", "ple_rec", *verb]
    parsed = parse(replica.args[3:]).values["options"]
    assert (parsed.splits, parsed.ids) == (("valid", "test"), ("a", "b"))


def test_a_comparison_is_a_process_on_each_host_that_takes_its_share(file: str) -> None:
    argv = [
        "--config",
        "census-compare",
        "--nnodes",
        "3",
        "--seeds",
        "2",
        "--match",
        "none",
        "--tune",
        "20",
        "--runs",
        "/runs",
    ]
    found = replicas(dryrun(file, "local_cwd", [*argv, "--", OVERRIDES[0]], "compare"))
    assert len(found) == 3
    for i, replica in enumerate(found):
        verb = ["compare", *argv[:2], *argv[4:]]
        share = ["--share", f"{i}/3"]
        assert replica.args[:2] == ["bash", "-c"]
        words = shlex.split(replica.args[2])
        assert words == ["exec", sys.executable, "-m", "ple_rec", *verb, "--set", OVERRIDES[0], *share]
        parsed = parse(words[4:]).values["options"]
        assert (parsed.share, parsed.tune) == ((i, 3), 20)
    (alone,) = replicas(dryrun(file, "local_cwd", ["--config", "census-compare"], "compare"))
    assert "--share" not in alone.args


@pytest.mark.parametrize(
    ("argv", "verb"),
    [
        ([], ["--hosts", "1"]),
        (
            ["--hosts", "4", "--gpus_per_host", "2", "--device", "cpu", "--out", "a b.json", "--", *OVERRIDES],
            [
                *["--gpus-per-host", "2", "--device", "cpu", "--hosts", "4", "--out", "a b.json"],
                *["--set", OVERRIDES[0], "--set", OVERRIDES[1]],
            ],
        ),
        (
            ["--device", "h100", "--find", "True", "--samples_per_second", "2e6"],
            ["--device", "h100", "--find", "--samples-per-second", "2000000.0"],
        ),
    ],
)
def test_a_plan_is_one_process(file: str, argv: list[str], verb: list[str]) -> None:
    (replica,) = replicas(dryrun(file, "local_cwd", ["--config", "tencent-ple", *argv], "plan"))
    assert replica.args == [sys.executable, "-m", "ple_rec", "plan", "--config", "tencent-ple", *verb]
    parse(replica.args[3:])


@pytest.mark.parametrize(("host", "endpoint"), [("node7", "node7:29400"), ("", "localhost:29400")])
def test_each_of_two_hosts_finds_the_first(file: str, lister: Path, host: str, endpoint: str) -> None:
    found = replicas(dryrun(file, "local_cwd", [*TWO_HOSTS, "--python", str(lister), "--", *OVERRIDES]))
    assert len(found) == 2
    assert found[0].args == found[1].args
    for replica in found:
        assert {key: replica.env[key] for key in ("A", "B", "OMP_NUM_THREADS", "TORCHX_RANK0_HOST")} == {
            **{"A": "1", "B": "2", "OMP_NUM_THREADS": "3", "TORCHX_RANK0_HOST": "localhost"}
        }
        job = replica.env["TORCHX_JOB_ID"].rpartition("/")[2]
        done = subprocess.run(
            replica.args, env=os.environ | {"TORCHX_RANK0_HOST": host}, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == agent_arguments(endpoint, job)


def test_slurm_runs_the_same_command_on_two_nodes(file: str, lister: Path, tmp_path: Path) -> None:
    argv = [*TWO_HOSTS, "--python", str(lister), "--port", "4711", "--", *OVERRIDES]
    script = dryrun(file, "slurm", argv).materialize()
    assert script.count("\n#SBATCH --job-name=train-") == 2
    assert script.count("--ntasks-per-node=1 --cpus-per-task=6 --mem=8192") == 2
    assert "\n#SBATCH hetjob\n" in script
    assert re.findall(r"--export=(\S+?),TORCHX_JOB_ID", script) == ["ALL,OMP_NUM_THREADS=3,A=1,B=2"] * 2
    # Slurm itself is not here: this srun runs the command of each group, one after the other, as Slurm would.
    srun = tmp_path / "srun"
    srun.write_text(
        "#!/bin/bash\n"
        "export SLURM_JOB_NODELIST_HET_GROUP_0=node1\n"
        'while [ "$#" -gt 0 ]; do\n'
        '  while [ "${1#--}" != "$1" ]; do shift; done\n'
        '  group=(); while [ "$#" -gt 0 ] && [ "$1" != : ]; do group+=("$1"); shift; done\n'
        '  "${group[@]}" || exit; [ "$#" -eq 0 ] || shift\n'
        "done\n"
    )
    srun.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "815"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [*agent_arguments("node1:4711", "815") * 2, "job exited with code 0"]
    assert done.returncode == 0


def in_a_shell(command: list[str], **variables: str) -> list[str]:
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_docker_containers_run_the_same_command(file: str, lister: Path) -> None:
    pytest.importorskip("docker", reason="TorchX's local_docker scheduler needs the package docker")
    argv = [*TWO_HOSTS, "--image", "registry/ple-rec:1", "--python", str(lister), "--", *OVERRIDES]
    first, second = dryrun(file, "local_docker", argv).containers
    for container in (first, second):
        assert container.image == "registry/ple-rec:1"
        head = container.kwargs["environment"]["TORCHX_RANK0_HOST"]
        assert head == first.kwargs["name"]
        job = head.removesuffix("-train-0")
        assert in_a_shell(container.command, TORCHX_RANK0_HOST=head) == agent_arguments(f"{head}:29400", job)


def test_kubernetes_pods_run_the_same_command(file: str, lister: Path) -> None:
    pytest.importorskip("kubernetes", reason="TorchX's kubernetes scheduler needs the package kubernetes")
    argv = [*TWO_HOSTS, "--image", "registry/ple-rec:1", "--python", str(lister), "--", *OVERRIDES]
    resource = dryrun(file, "kubernetes", argv, queue="q").resource
    for task in resource["spec"]["tasks"]:
        (container,) = task["template"].spec.containers
        assert container.image == "registry/ple-rec:1"
        lines = in_a_shell(container.command, VC_TRAIN_0_HOSTS="pod0")
        assert lines[lines.index("--rdzv-endpoint") + 1].endswith(":29400")
        assert lines[lines.index("--") :] == [*VERB, "--set", "runtime.threads=3"]


def test_aws_batch_nodes_run_the_same_command(file: str, lister: Path) -> None:
    argv = [*TWO_HOSTS, "--image", "registry/ple-rec:1", "--python", str(lister), "--", *OVERRIDES]
    with pytest.warns(UserWarning, match="Cannot determine resource instance type"):
        request = dryrun(file, "aws_batch", argv, queue="q")
    properties = request.job_def["nodeProperties"]
    assert properties["numNodes"] == 2
    (nodes,) = properties["nodeRangeProperties"]
    assert nodes["container"]["image"] == "registry/ple-rec:1"
    command = nodes["container"]["command"]
    variable = "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"
    assert in_a_shell(command, **{variable: "10.0.0.1"}) == agent_arguments("10.0.0.1:29400", request.name)
    assert in_a_shell(command, **{variable: ""}) == agent_arguments("localhost:29400", request.name)


def role(**arguments: Any) -> Any:
    app: AppDef = components.train("census-ple", check=False, **arguments)
    return app.roles[0]


def test_the_python_is_this_one_unless_an_image_or_a_flag_says_otherwise() -> None:
    assert role().entrypoint == sys.executable
    assert role(image="registry/ple-rec:1").entrypoint == "python"
    assert role(image="registry/ple-rec:1", python="python3.12").entrypoint == "python3.12"
    assert role(python="sh").entrypoint == "sh"


def test_resources_and_retries() -> None:
    one = role(nproc=4, cpu=2, gpu=4, memMB=1000, max_retries=2)
    assert (one.resource.cpu, one.resource.gpu, one.resource.memMB) == (4, 4, 1000)
    assert (one.num_replicas, one.max_retries, one.port_map) == (1, 2, {})
    two = role(nnodes=2, port=4711)
    assert (two.num_replicas, two.entrypoint, two.port_map) == (2, "bash", {"c10d": 4711})
    assert macros.rank0_env in two.args[1]
    assert role(nproc=4, cpu=32).env["OMP_NUM_THREADS"] == "8"
    assert role(nproc=4, cpu=32, threads=3).env["OMP_NUM_THREADS"] == "3"
