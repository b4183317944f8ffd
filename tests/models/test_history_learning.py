"""Attention learns what a mean of the history cannot say: whether the item of the sample is among the events."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.config.model import HardSharingConfig
from ple_rec.config.run import DataConfig, EmbeddingsConfig, RunConfig, TrainConfig
from ple_rec.config.schema import HistoryFeature, HistoryItem, SparseFeature
from ple_rec.data.batch import Batch
from ple_rec.models.build import build_model

VIDEOS, LENGTH, DIM, STEPS = 50, 6, 8, 120
LIKED = HistoryFeature(
    name="liked", items=(HistoryItem(feature="video", table="video"),), length=LENGTH, age_edges=(60,), events=0
)


def batch(rows: int, seed: int) -> Batch:
    """Random histories and videos; the video of every second sample is one of its events."""
    random = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(1, LENGTH + 1, (rows,), generator=random)
    events_BL = torch.randint(VIDEOS, (rows, LENGTH), generator=random)
    is_event_BL = torch.arange(LENGTH) < lengths_B[:, None]
    number_B = (torch.rand(rows, generator=random) * lengths_B).long()
    video_B = torch.randint(VIDEOS, (rows,), generator=random)
    video_B[::2] = events_BL[torch.arange(rows), number_B][::2]
    label_B1 = ((events_BL == video_B[:, None]) & is_event_BL).any(1, keepdim=True).float()
    events = events_BL[is_event_BL]
    sparse = KeyedJaggedTensor(
        keys=["video", "liked.video", "liked_age"],
        values=torch.cat([video_B, events, torch.ones_like(events)]),
        lengths=torch.cat([torch.ones_like(lengths_B), lengths_B, lengths_B]),
        stride=rows,
    )
    return Batch(sparse, torch.zeros(rows, 0), label_B1, torch.ones(rows, 1), None, None, rows)


def auc_of_trained_model(history: str) -> float:
    """AUC on new samples after training on fresh ones."""
    config = RunConfig(
        name="run",
        data=DataConfig(path="dataset"),
        embeddings=EmbeddingsConfig(dim=DIM),
        model=HardSharingConfig.model_validate({"variant": "hard_sharing", "bottom": (16,), "history": history}),
        train=TrainConfig(batch_size=8, steps=1),
    )
    model = build_model(
        config,
        tasks=["again"],
        losses=["cross_entropy"],
        sparse=(SparseFeature(name="video", table="video"), *LIKED.columns()),
        dense=(),
        table_rows={"video": VIDEOS, "liked_age": 3},
        statistics={},
        histories=(LIKED,),
        device=torch.device("cpu"),
        table_device=torch.device("cpu"),
    )
    torch.manual_seed(0)
    for collection in (model.embeddings, model.sequences):
        for weight in [] if collection is None else collection.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(STEPS):
        samples = batch(256, step)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(samples)[0], samples.labels_BK).backward()
        optimizer.step()
    samples = batch(1000, STEPS)
    with torch.no_grad():
        return auc(model(samples)[0][:, 0], samples.labels_BK[:, 0])


def auc(logit_B: Tensor, label_B: Tensor) -> float:
    """Share of the pairs of a positive and a negative sample in which the positive one has the higher logit."""
    return float((logit_B[label_B == 1][:, None] > logit_B[label_B == 0]).float().mean())


def test_attention_knows_whether_the_history_has_the_item() -> None:
    assert auc_of_trained_model("din") > 0.98
    assert 0.7 < auc_of_trained_model("mean") < 0.93
