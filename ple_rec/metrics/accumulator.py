"""Sums of metrics: computed on the device, added over ranks by one all-reduce, and saved as state.

Ranks exchange values by all-reduces only: each rank writes its values at its own index into a tensor of zeros. Unlike a
gather, that needs no padding if ranks have unequal numbers of rows, and it gives every rank the same bits.

A row counts for a task if it is in the task's sample space, for example only clicked impressions for a conversion rate.

Shapes: W ranks, N rows of this rank, B rows of a batch, K tasks, T sums of a task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, NotRequired, TypedDict

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ple_rec.errors import DivergedError, UserError


def rank_and_world(group: ProcessGroup | None) -> tuple[int, int]:
    """Return this rank and the number of ranks of `group` (None: the default group); 0 and 1 if there is no group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def all_reduce(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """Overwrite `tensor` by its sum over the ranks, and return it; with a single rank, it stays as it is."""
    if rank_and_world(group)[1] > 1:
        dist.all_reduce(tensor, group=group)
    return tensor


def at_own_rank(own: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return (W, ...) with this rank's value at its index and zeros elsewhere; the sum over ranks has all values."""
    rank, world = rank_and_world(group)
    all_W = own.new_zeros(world, *own.shape)
    all_W[rank] = own
    return all_W


def gather(own: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the values of all ranks as (W, ...); all have one shape. This is a collective."""
    return all_reduce(at_own_rank(own, group), group)


def join_rows(own_N: Tensor, rows_W: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """Return the rows of all ranks one after the other. This is a collective.

    Args:
        own_N: Rows of this rank.
        rows_W: Number of rows of each rank.
        group: Process group of the ranks.
    """
    rank, world = rank_and_world(group)
    if world == 1:
        return own_N
    start = sum(rows_W[:rank])
    all_rows = own_N.new_zeros(sum(rows_W), *own_N.shape[1:])
    all_rows[start : start + len(own_N)] = own_N
    return all_reduce(all_rows, group)


Result = dict[str, float | int | None]
State = dict[str, Tensor | int]


class TaskCurves(TypedDict):
    """Curves of one task: bins of `scores.calibration_bins`, and for a binary task ROC points `[fpr, tpr]`."""

    calibration: list[dict[str, float]]
    roc: NotRequired[list[list[float]]]


class ScoredRows(NamedTuple):
    """Rows of a batch, (B, K) each, in float64. A score is a logit or a prediction.

    Rows that are invalid or outside the sample space have score, label and weight 0.
    """

    score: Tensor
    label: Tensor
    weight: Tensor


class Accumulator(ABC):
    """Sums over the samples of K tasks of one kind, on the device in float64.

    Subclasses name their sums in `SUMS`. The first two are `samples`, the number of rows in the sample space, and
    `invalid`, the number of those with a score, label or weight that is not finite, or a negative weight. `compute`
    raises an error if there are invalid rows.

    Args:
        names: Names of the K tasks.
        device: Device of the sums.
    """

    SUMS: ClassVar[tuple[str, ...]]

    def __init__(self, names: Sequence[str], device: torch.device | str) -> None:
        self.names = tuple(names)
        self.device = torch.device(device)
        # All rows of this rank, those outside the sample space too; counting only the others would wait for the device.
        self.rows = 0
        self._sums_TK = self._zeros(len(self.SUMS), len(self.names), dtype=torch.float64)

    @torch.no_grad()
    def update(self, score_BK: Tensor, label_BK: Tensor, weight_B: Tensor | None, in_space_BK: Tensor) -> None:
        """Add a batch without waiting for the device.

        Args:
            score_BK: Logits or predictions, of any floating type.
            label_BK: Labels of each row and task.
            weight_B: Sample weights >= 0, or None if all are 1.
            in_space_BK: Flags of the sample spaces, nonzero for a row that counts; other scores and labels are ignored,
                NaN included.

        Raises:
            ValueError: A shape differs; broadcasting would count pairs that do not exist.
        """
        shape = (score_BK.shape[0], len(self.names))
        for name, tensor, expected in (
            ("scores", score_BK, shape),
            ("labels", label_BK, shape),
            ("in_space", in_space_BK, shape),
            ("weight", weight_B, shape[:1]),
        ):
            if tensor is not None and tensor.shape != expected:
                raise ValueError(f"{name}: got shape {tuple(tensor.shape)}; expected {expected} for tasks {self.names}")
        score_BK, label_BK = score_BK.double(), label_BK.double()
        weight_B1 = torch.ones_like(score_BK[:, :1]) if weight_B is None else weight_B.double().unsqueeze(1)
        inside_BK = in_space_BK.bool()
        valid_BK = (score_BK + label_BK + weight_B1).isfinite() & (weight_B1 >= 0)
        space_BK, counted_BK = inside_BK.double(), (inside_BK & valid_BK).double()
        # Multiplying by a 0/1 mask is several times faster than `where`, but needs finite values.
        rows = ScoredRows(*(torch.nan_to_num(x, 0, 0, 0) * counted_BK for x in (score_BK, label_BK, weight_B1)))
        terms = [space_BK, space_BK - counted_BK, *self._terms(rows)]
        self._sums_TK += torch.stack([term_BK.sum(0) for term_BK in terms])
        self._store_rows(rows)
        self.rows += shape[0]

    @abstractmethod
    def _terms(self, rows: ScoredRows) -> list[Tensor]:
        """Return the terms (B, K) of each of `SUMS[2:]`."""

    @abstractmethod
    def _store_rows(self, rows: ScoredRows) -> None:
        """Add the batch to the buffer or the histogram."""

    def buffered_rows(self) -> int:
        """Return the number of rows in this rank's buffer, or -1 if it has only a histogram."""
        return -1

    @abstractmethod
    def histogram(self) -> Tensor:
        """Return this rank's histogram, (K, ...), float64."""

    @abstractmethod
    def results(
        self, sums: Mapping[str, Sequence[float]], buffered_rows: Sequence[int], group: ProcessGroup | None
    ) -> list[Result]:
        """Return the metrics of each task. This is a collective.

        Args:
            sums: Sums over all ranks, by name, each with one value per task.
            buffered_rows: Result of `buffered_rows` on each rank.
            group: Process group of the ranks.
        """

    @abstractmethod
    def curves(self, histogram: Tensor) -> list[TaskCurves]:
        """Return the curves of each task from the histogram over all ranks."""

    def reset(self) -> None:
        """Forget every sample."""
        self._sums_TK.zero_()
        self.rows = 0

    def state_dict(self) -> State:
        """Return a copy of this rank's state: tensors and ints."""
        return {"sums": self._sums_TK.clone(), "rows": self.rows}

    def merge_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Add the state of another rank or run, as if its samples had been added here.

        Raises:
            UserError: The state belongs to other tasks or to another version.
        """
        self.check_state(state)
        self._sums_TK += tensor_of(state, "sums").to(self.device)
        self.rows += int(state["rows"])

    def check_state(self, state: Mapping[str, Tensor | int]) -> None:
        """Raise a UserError if a state belongs to other tasks or to another version."""
        for key, own in self._state_shapes().items():
            value = state.get(key)
            shape = None if value is None else tuple(value.shape) if isinstance(value, Tensor) else ()
            if shape is None or shape[-len(own) :] != own:
                raise UserError(
                    f"metric state, {key}",
                    "missing" if shape is None else f"shape {shape}",
                    f"{len(self.names)} tasks ({', '.join(self.names)}) need a tensor whose last dimensions are {own}",
                    "load a state that was saved with the same tasks by the same version",
                )
        if not isinstance(state.get("rows"), int):
            raise UserError(
                "metric state, rows",
                repr(state.get("rows")),
                "it is the number of rows, an int",
                "load a state that state_dict() returned",
            )

    def _state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the last dimensions of every tensor in the state."""
        return {"sums": tuple(self._sums_TK.shape)}

    def _zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        # A tensor that is created in inference mode cannot be updated outside of it.
        with torch.inference_mode(False):
            return torch.zeros(shape, dtype=dtype, device=self.device)


def compute(accumulators: Sequence[Accumulator], group: ProcessGroup | None) -> dict[str, Result]:
    """Return the metrics of each task over all ranks. This is a collective; every rank gets the same numbers.

    One all-reduce adds the sums of all accumulators; an accumulator may need a second one for its AUC.

    Raises:
        DivergedError: A row of a sample space has a value that is not finite, or a negative weight. Every rank raises
            the error.
    """
    parts = []
    for accumulator in accumulators:
        buffered_rows = accumulator._sums_TK.new_tensor(accumulator.buffered_rows())
        parts += [at_own_rank(buffered_rows, group), accumulator._sums_TK.flatten()]
    received = iter(all_reduce(torch.cat(parts), group).tolist())
    world = rank_and_world(group)[1]
    reduced = []
    for accumulator in accumulators:
        buffered_W = [int(next(received)) for _ in range(world)]
        sums = {name: [next(received) for _ in accumulator.names] for name in accumulator.SUMS}
        reduced.append((accumulator, sums, buffered_W))
    for accumulator, sums, _ in reduced:
        for name, invalid, samples in zip(accumulator.names, sums["invalid"], sums["samples"], strict=True):
            if invalid:
                raise DivergedError(
                    f"metrics of {name}",
                    f"{int(invalid)} of {int(samples)} rows of its sample space hold a prediction, label or weight "
                    "that is not finite, or a negative weight",
                    "a metric over them would mean nothing",
                    "lower the learning rate or clip gradients; if it happens at the first step, check the data",
                )
    results: dict[str, Result] = {}
    for accumulator, sums, buffered_W in reduced:
        results.update(zip(accumulator.names, accumulator.results(sums, buffered_W, group), strict=True))
    return results


def curves(accumulators: Sequence[Accumulator], group: ProcessGroup | None) -> dict[str, TaskCurves]:
    """Return the curves of each task over all ranks, with one all-reduce of all histograms. This is a collective."""
    own = [accumulator.histogram() for accumulator in accumulators]
    received = all_reduce(torch.cat([histogram.flatten() for histogram in own]), group).cpu()
    results: dict[str, TaskCurves] = {}
    start = 0
    for accumulator, histogram in zip(accumulators, own, strict=True):
        part = received[start : start + histogram.numel()].view(histogram.shape)
        results.update(zip(accumulator.names, accumulator.curves(part), strict=True))
        start += histogram.numel()
    return results


def ratio(numerator: float, denominator: float) -> float | None:
    """Return `numerator / denominator`, None if the denominator is 0."""
    return numerator / denominator if denominator else None


def tensor_of(state: Mapping[str, Tensor | int], key: str) -> Tensor:
    """Return a tensor of a checked state."""
    tensor = state[key]
    assert isinstance(tensor, Tensor)
    return tensor
