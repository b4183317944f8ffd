"""--host: what the named shapes ask of a scheduler."""

from __future__ import annotations

from typing import Any

import pytest
from torchx.specs import AppDef, named_resources
from torchx.specs.finder import ComponentValidationException
from torchx.specs.named_resources_aws import MEM_TAX

import launch.components as components
from launch.hosts import HOSTS, INSTANCE_TYPE


def role(**arguments: Any) -> Any:
    app: AppDef = components.train("census-ple", check=False, **arguments)
    return app.roles[0]


@pytest.mark.parametrize("instance", ["p4d.24xlarge", "p4de.24xlarge", "p5.48xlarge"])
def test_shapes_are_those_of_torchx(instance: str) -> None:
    known, host = named_resources[f"aws_{instance}"], HOSTS[instance]
    assert (known.gpu, known.cpu) == (host.gpus, host.cores)
    assert known.memMB == host.memory // 1024 * int(1024 * MEM_TAX)
    assert known.capabilities == {INSTANCE_TYPE: instance}


def test_a_host_says_ranks_gpus_cores_and_memory() -> None:
    asked = role(host="h100", nnodes=8)
    assert (asked.resource.gpu, asked.resource.cpu, asked.resource.memMB) == (8, 184, int(2048 * 1024 * 0.9))
    assert "--nproc-per-node 8 --nnodes 8 " in asked.args[1]
    assert asked.env["OMP_NUM_THREADS"] == "23"
    assert asked.env["NCCL_DEBUG"] == "WARN"
    assert role(host="a100").env["OMP_NUM_THREADS"] == "11"


def test_a_schedulers_share_is_below_the_host() -> None:
    for name in HOSTS:
        resource, host = role(host=name).resource, HOSTS[name]
        assert resource.memMB <= 0.9 * host.memory
        assert resource.cpu == host.cores - host.gpus
        assert resource.cpu % host.gpus == 0


def test_what_is_given_wins_over_the_host() -> None:
    asked = role(host="a100", nproc=4, gpu=4, cpu=40, memMB=1000, env={"NCCL_DEBUG": "INFO"})
    assert (asked.resource.gpu, asked.resource.cpu, asked.resource.memMB) == (4, 40, 1000)
    assert asked.args[asked.args.index("--nproc-per-node") + 1] == "4"
    assert asked.env["OMP_NUM_THREADS"] == "10"
    assert asked.env["NCCL_DEBUG"] == "INFO"


def test_only_an_instance_type_holds_a_job_to_it() -> None:
    """Kubernetes would let a job wait for ever for nodes of a cloud that it is not in."""
    assert {name for name in HOSTS if role(host=name).resource.capabilities} == {
        "p4d.24xlarge",
        "p4de.24xlarge",
        "p5.48xlarge",
        "p5en.48xlarge",
        "p6-b200.48xlarge",
        "g6e.48xlarge",
    }
    assert role(host="p5en.48xlarge").resource.capabilities == {INSTANCE_TYPE: "p5en.48xlarge"}


@pytest.mark.parametrize(
    ("host", "cores", "memory_gib"),
    [("p4de.24xlarge", 96, 1152), ("p6-b200.48xlarge", 192, 2048), ("g6e.48xlarge", 192, 1536)],
)
def test_instances_have_what_their_pages_say(host: str, cores: int, memory_gib: int) -> None:
    assert HOSTS[host] == (8, cores, memory_gib << 10, host)


def test_a100_stays_a_name_of_both_a100_hosts() -> None:
    assert HOSTS["a100"] == HOSTS["a100-40"] == HOSTS["a100-80"] == HOSTS["p4d.24xlarge"]._replace(instance_type="")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"host": "h1000"},
            "--host h1000; known are a100, a100-40, a100-80, h100, h200, b200, l40s, p4d.24xlarge, p4de.24xlarge, "
            "p5.48xlarge, p5en.48xlarge, p6-b200.48xlarge, g6e.48xlarge. Fix: name one of them, or give "
            "--nproc, --gpu, --cpu and --memMB",
        ),
        (
            {"host": "h100", "nproc": 16},
            "--nproc 16 --gpu 8; each rank needs a GPU of its own. Fix: give --nproc 8, or more GPUs",
        ),
        ({"cpu": -1}, "--cpu -1; it cannot be negative. Fix: leave it out for the default"),
    ],
)
def test_a_host_that_is_not_there(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ComponentValidationException) as caught:
        role(**arguments)
    assert str(caught.value) == message
