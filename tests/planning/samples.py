"""Clusters, runs and plans that tests plan with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ple_rec.config.cluster import PRESETS, Cluster, Device
from ple_rec.config.load import load_config
from ple_rec.config.plan import PlanFile
from ple_rec.config.plan_table import TableOptimizer
from ple_rec.config.run import EmbeddingsConfig, RunConfig, TableOptimizerConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.distributed.planner import make_plan
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.models.embeddings import embedding_collection
from ple_rec.planning.plan_input import describe_dataset, plan_run

RECIPE = "tencent-ple"


def cluster(device: Device = "h100", hosts: int = 1, ranks: int = 8, **hardware: Any) -> Cluster:
    """Hosts of a preset, with other figures where they are given."""
    changed = PRESETS[device].model_copy(update=hardware)
    return Cluster(hosts=hosts, ranks_per_host=ranks, hardware=changed)


def planned(on: Cluster, *overrides: str) -> PlanFile:
    """The plan of the recipe at the paper's scale."""
    config = load_config(RunConfig, RECIPE, overrides)
    return plan_run(config, describe_dataset(config), on)


def module_of(rows: dict[str, int], embeddings: EmbeddingsConfig, optimizer: TableOptimizer, on: Cluster) -> nn.Module:
    """Tables of one feature each, on the meta device, with their optimizer."""
    features = [SparseFeature(name=f"f_{name}", table=name) for name in rows]
    collection = embedding_collection(embeddings, features, rows, torch.device("meta"))
    assert collection is not None
    module = nn.ModuleDict({"embeddings": collection})
    device = torch.device("cuda" if on.cuda else "cpu")
    attach_table_optimizer(module, TableOptimizerConfig(kind=optimizer), device)
    return module


def plan_of(
    rows: dict[str, int],
    on: Cluster,
    embeddings: EmbeddingsConfig | None = None,
    optimizer: TableOptimizer = "rowwise_adagrad",
    batch: int = 256,
) -> PlanFile:
    """A plan of bare tables; raises DoesNotFitError."""
    wanted = embeddings or EmbeddingsConfig(dim=16)
    module = module_of(rows, wanted, optimizer, on)
    return make_plan(module, PlanningInputs(wanted, optimizer, on, batch, {}))
