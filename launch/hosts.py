"""Kinds of GPU hosts that `--host` of a component names, with their GPUs, cores and memory.

The figures are those of AWS's EC2 instances: P4d (8 A100 of 40 GB) and P4de (8 A100 of 80 GB) have 96 vCPU and 1,152
GiB; P5 (8 H100), P5en (8 H200) and P6-B200 (8 B200) have 192 vCPU and 2 TiB; G6e (8 L40S) has 192 vCPU and 1.5 TiB.
P4d, P4de and P5 are also TorchX's `aws_p4d.24xlarge`, `aws_p4de.24xlarge` and `aws_p5.48xlarge`. Other hosts with these
GPUs have similar figures; give `--cpu` and `--memMB` for hosts that have less.
"""

from typing import NamedTuple

import torchx.specs as specs

from launch.submission import refusal_error

# Label by which Kubernetes and AWS Batch choose hosts of an instance type.
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
# No scheduler offers all of a host, and a job that requests it waits for ever. ECS keeps about 4 % of the memory
# (TorchX's MEM_TAX), ParallelCluster offers 95 % to Slurm, and Kubernetes' kubelet and the pods of every node need
# memory and some cores. One core per GPU is left to the host's own services, so that ranks share the others evenly.
_MEMORY_SHARE = 0.9
_CORES_LEFT_PER_GPU = 1


class Host(NamedTuple):
    """Kind of host.

    Args:
        gpus: Number of GPUs.
        cores: Number of cores as schedulers count them, which are hardware threads.
        memory: Memory in MiB.
        instance_type: Instance type of AWS to which jobs are restricted; "" for no restriction.
    """

    gpus: int
    cores: int
    memory: int
    instance_type: str = ""

    def resource(self, *, cpu: int, gpu: int, memory: int) -> specs.Resource:
        """Return the resource that a job requests; 0 becomes the most that schedulers offer of this host."""
        return specs.Resource(
            cpu=cpu or self.cores - _CORES_LEFT_PER_GPU * self.gpus,
            gpu=gpu or self.gpus,
            memMB=memory or int(self.memory * _MEMORY_SHARE),
            capabilities={INSTANCE_TYPE: self.instance_type} if self.instance_type else {},
        )


_A100, _L40S, _H100 = Host(8, 96, 1152 << 10), Host(8, 192, 1536 << 10), Host(8, 192, 2048 << 10)
_H200 = _B200 = _H100

# A job for an instance type runs on no other: AWS Batch requests it, and Kubernetes selects nodes by it. A job for a
# GPU runs on any host with enough resources.
HOSTS: dict[str, Host] = {
    "a100": _A100,
    "a100-40": _A100,
    "a100-80": _A100,
    "h100": _H100,
    "h200": _H200,
    "b200": _B200,
    "l40s": _L40S,
    "p4d.24xlarge": _A100._replace(instance_type="p4d.24xlarge"),
    "p4de.24xlarge": _A100._replace(instance_type="p4de.24xlarge"),
    "p5.48xlarge": _H100._replace(instance_type="p5.48xlarge"),
    "p5en.48xlarge": _H200._replace(instance_type="p5en.48xlarge"),
    "p6-b200.48xlarge": _B200._replace(instance_type="p6-b200.48xlarge"),
    "g6e.48xlarge": _L40S._replace(instance_type="g6e.48xlarge"),
}

_DEFAULT_RESOURCE = specs.Resource(cpu=2, gpu=0, memMB=8192)  # Resource of a job without `--host`.


def host_resource(host: str, *, cpu: int, gpu: int, memory: int) -> specs.Resource:
    """Return the resource that a job requests of each of its hosts.

    Args:
        host: Name in HOSTS; "" for any host, with the defaults of 2 cores, no GPU and 8 GiB.
        cpu: Number of cores; 0 for the cores of the host that schedulers offer, or the default.
        gpu: Number of GPUs; 0 for those of the host, or the default.
        memory: Memory in MiB; 0 for the memory of the host that schedulers offer, or the default.

    Raises:
        ComponentValidationException: The host is unknown, or a number is negative.
    """
    for flag, value in {"--cpu": cpu, "--gpu": gpu, "--memMB": memory}.items():
        if value < 0:
            raise refusal_error(f"{flag} {value}", "it cannot be negative", "leave it out for the default")
    if not host:
        return specs.Resource(
            cpu=cpu or _DEFAULT_RESOURCE.cpu, gpu=gpu or _DEFAULT_RESOURCE.gpu, memMB=memory or _DEFAULT_RESOURCE.memMB
        )
    if host not in HOSTS:
        fix = "name one of them, or give --nproc, --gpu, --cpu and --memMB"
        raise refusal_error(f"--host {host}", f"known are {', '.join(HOSTS)}", fix)
    return HOSTS[host].resource(cpu=cpu, gpu=gpu, memory=memory)
