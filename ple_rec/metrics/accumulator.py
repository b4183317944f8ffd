"""Sums of metrics: masked on the device, exchanged between ranks by one all-reduce, and kept as state.

Everything travels in all-reduces, each rank's part in its own place among zeros. So rows of unequal numbers need no
padding, which a gather would, and every rank has the same bits.

Shapes: W ranks, N rows of this rank, B batch, K tasks, T sums of a task.
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
    """Return this rank and the number of ranks of `group`; 0 and 1 where there is no process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def all_reduce(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the sum of `tensor` (overwritten) over the ranks of `group`; itself where there is no process group."""
    if rank_and_world(group)[1] > 1:
        dist.all_reduce(tensor, group=group)
    return tensor


def in_own_place(own: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return (W, ...): this rank's value in its place, zeros in those of the others, so that the sum has all."""
    rank, world = rank_and_world(group)
    all_W = own.new_zeros(world, *own.shape)
    all_W[rank] = own
    return all_W


def gathered(own: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return (W, ...): the value of every rank, all of one shape; a collective."""
    return all_reduce(in_own_place(own, group), group)


def joined(own_N: Tensor, rows_W: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """Return the rows of all ranks, one behind the other; a collective.

    Args:
        own_N: Rows of this rank.
        rows_W: Number of rows of each rank.
        group: Process group of the ranks.
    """
    rank, world = rank_and_world(group)
    if world == 1:
        return own_N
    start = sum(rows_W[:rank])
    whole = own_N.new_zeros(sum(rows_W), *own_N.shape[1:])
    whole[start : start + len(own_N)] = own_N
    return all_reduce(whole, group)


Result = dict[str, float | int | None]
State = dict[str, Tensor | int]


class Curves(TypedDict):
    """Plots of one task: calibration bins for every task, ROC points `[fpr, tpr]` for a binary one."""

    calibration: list[dict[str, float]]
    roc: NotRequired[list[list[float]]]


class Rows(NamedTuple):
    """A batch, (B, K) each, in float64, in which every row that does not count has score, label and weight 0."""

    score: Tensor
    label: Tensor
    weight: Tensor


class Accumulator(ABC):
    """Sums over the samples of K tasks of one kind, kept on the device in float64.

    Subclasses name their sums in `SUMS`, which starts with `samples` and `refused` (rows of the sample space whose
    score, label or weight is not finite, or whose weight is negative: `results` reports them as an error).
    """

    SUMS: ClassVar[tuple[str, ...]]

    def __init__(self, names: Sequence[str], device: torch.device | str) -> None:
        self.names = tuple(names)
        self.device = torch.device(device)
        self.rows = 0  # fed on this rank, in the sample space or not: known without asking the device
        self._sums_TK = self._zeros(len(self.SUMS), len(self.names), dtype=torch.float64)

    @torch.no_grad()
    def update(self, score_BK: Tensor, label_BK: Tensor, weight_B: Tensor | None, in_space_BK: Tensor) -> None:
        """Add a batch; never waits for the device.

        Args:
            score_BK: Logits or predictions, any floating type.
            label_BK: Labels.
            weight_B: Sample weights >= 0; None for 1.
            in_space_BK: Nonzero where the row counts. Elsewhere score and label are ignored, NaN included.

        Raises:
            ValueError: if a shape differs (a broadcast would count pairs that do not exist).
        """
        shape = (score_BK.shape[0], len(self.names))
        for name, tensor, wanted in (
            ("scores", score_BK, shape),
            ("labels", label_BK, shape),
            ("in_space", in_space_BK, shape),
            ("weight", weight_B, shape[:1]),
        ):
            if tensor is not None and tensor.shape != wanted:
                raise ValueError(f"{name}: got shape {tuple(tensor.shape)}; expected {wanted} for tasks {self.names}")
        score_BK, label_BK = score_BK.double(), label_BK.double()
        given_B1 = torch.ones_like(score_BK[:, :1]) if weight_B is None else weight_B.double().unsqueeze(1)
        inside_BK = in_space_BK.bool()
        sound_BK = (score_BK + label_BK + given_B1).isfinite() & (given_B1 >= 0)
        space_BK, keep_BK = inside_BK.double(), (inside_BK & sound_BK).double()
        # A product with a 0/1 mask is several times faster than `where`, once nothing is NaN or infinite.
        rows = Rows(*(torch.nan_to_num(x, 0, 0, 0) * keep_BK for x in (score_BK, label_BK, given_B1)))
        terms = [space_BK, space_BK - keep_BK, *self._terms(rows)]
        self._sums_TK += torch.stack([term_BK.sum(0) for term_BK in terms])
        self._keep(rows)
        self.rows += shape[0]

    @abstractmethod
    def _terms(self, rows: Rows) -> list[Tensor]:
        """Per row the terms of `SUMS[2:]`."""

    @abstractmethod
    def _keep(self, rows: Rows) -> None:
        """Add the batch to buffer or histogram."""

    def held(self) -> int:
        """Rows that this rank holds one by one; -1 once it holds a histogram only."""
        return -1

    @abstractmethod
    def histogram(self) -> Tensor:
        """This rank's histogram, (K, ...), float64."""

    @abstractmethod
    def results(
        self, sums: Mapping[str, Sequence[float]], held: Sequence[int], group: ProcessGroup | None
    ) -> list[Result]:
        """Per task the metrics from the global sums (per task) and what each rank's `held` said; a collective."""

    @abstractmethod
    def curves(self, histogram: Tensor) -> list[Curves]:
        """Per task the curves from the global histogram."""

    def reset(self) -> None:
        """Forget every sample."""
        self._sums_TK.zero_()
        self.rows = 0

    def state_dict(self) -> State:
        """A copy of this rank's state: tensors and ints."""
        return {"sums": self._sums_TK.clone(), "rows": self.rows}

    def merge_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Add the state of another rank or run, as if its samples had been fed here.

        Raises:
            UserError: if the state is that of other tasks or another version.
        """
        self.check(state)
        self._sums_TK += tensor_of(state, "sums").to(self.device)
        self.rows += int(state["rows"])

    def check(self, state: Mapping[str, Tensor | int]) -> None:
        """Refuse a state that does not fit; raises as `merge_state_dict` does."""
        for key, own in self._shapes().items():
            found = state.get(key)
            shape = None if found is None else tuple(found.shape) if isinstance(found, Tensor) else ()
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
                "must be the number of rows fed, an int",
                "load a state that state_dict() returned",
            )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The last dimensions of every tensor in the state."""
        return {"sums": tuple(self._sums_TK.shape)}

    def _zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(False):  # an inference tensor could not be updated outside of it later
            return torch.zeros(shape, dtype=dtype, device=self.device)


def compute(accumulators: Sequence[Accumulator], group: ProcessGroup | None) -> dict[str, Result]:
    """Metrics per task over all ranks of `group`. A collective: every rank calls it and gets the same numbers.

    Sums of all accumulators travel in one all-reduce; a kind may need a second one for its AUC.

    Raises:
        DivergedError: on every rank, if a row of a sample space held a value that is not finite.
    """
    sent = []
    for accumulator in accumulators:
        held = accumulator._sums_TK.new_tensor(accumulator.held())
        sent += [in_own_place(held, group), accumulator._sums_TK.flatten()]
    received = iter(all_reduce(torch.cat(sent), group).tolist())
    world = rank_and_world(group)[1]
    reduced = []
    for accumulator in accumulators:
        held_W = [int(next(received)) for _ in range(world)]
        sums = {name: [next(received) for _ in accumulator.names] for name in accumulator.SUMS}
        reduced.append((accumulator, sums, held_W))
    for accumulator, sums, _ in reduced:
        for name, refused, samples in zip(accumulator.names, sums["refused"], sums["samples"], strict=True):
            if refused:
                raise DivergedError(
                    f"metrics of {name}",
                    f"{int(refused)} of {int(samples)} rows of its sample space hold a prediction, label or weight "
                    "that is not finite, or a negative weight",
                    "a metric over them would mean nothing",
                    "lower the learning rate or clip gradients; if it happens at the first step, check the data",
                )
    results: dict[str, Result] = {}
    for accumulator, sums, held_W in reduced:
        results.update(zip(accumulator.names, accumulator.results(sums, held_W, group), strict=True))
    return results


def curves(accumulators: Sequence[Accumulator], group: ProcessGroup | None) -> dict[str, Curves]:
    """Curves per task over all ranks of `group`, all histograms in one all-reduce. A collective."""
    own = [accumulator.histogram() for accumulator in accumulators]
    received = all_reduce(torch.cat([histogram.flatten() for histogram in own]), group).cpu()
    results: dict[str, Curves] = {}
    start = 0
    for accumulator, histogram in zip(accumulators, own, strict=True):
        part = received[start : start + histogram.numel()].view(histogram.shape)
        results.update(zip(accumulator.names, accumulator.curves(part), strict=True))
        start += histogram.numel()
    return results


def ratio(numerator: float, denominator: float) -> float | None:
    """`numerator / denominator`, None where that is undefined."""
    return numerator / denominator if denominator else None


def tensor_of(state: Mapping[str, Tensor | int], key: str) -> Tensor:
    """A tensor of a checked state."""
    tensor = state[key]
    assert isinstance(tensor, Tensor)
    return tensor
