"""Attention over histories: DIN written down literally, padding, requests, precision and cost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ple_rec.modules.history import HistoryAttention
from tests.models.literal_din import literal_attention

ITEMS, AGE, WIDTH, LENGTH = 6, 2, 8, 5
LENGTHS = (3, 0, 5, 1)
REQUEST_B, FIRST_R = torch.tensor([0, 0, 0, 1, 1, 2, 3]), torch.tensor([0, 3, 5, 6])
HIDDEN = [(4,), (4, 3), (3, 4, 2)]


def attention(hidden: Sequence[int] = (4,), dtype: torch.dtype = torch.float64) -> HistoryAttention:
    torch.manual_seed(1)
    unit = HistoryAttention(ITEMS, AGE, hidden).to(dtype)
    with torch.no_grad():
        for i, slope in enumerate(unit.slopes):
            slope.fill_(0.1 + 0.2 * i)
    return unit


def events_RLW(lengths: Sequence[int] = LENGTHS, length: int = LENGTH, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random events, padded by zeros."""
    generator = torch.Generator().manual_seed(2)
    events = torch.zeros(len(lengths), length, WIDTH, dtype=dtype)
    for row, n in zip(events, lengths, strict=True):
        row[:n] = torch.randn(n, WIDTH, dtype=dtype, generator=generator)
    return events


def targets_BQ(rows: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, ITEMS, dtype=dtype, generator=torch.Generator().manual_seed(3))


def gradients(unit: HistoryAttention, y: Tensor, *inputs: Tensor) -> list[Tensor]:
    factors = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(4))
    return list(torch.autograd.grad((y * factors).sum(), [*inputs, *unit.parameters()]))


def close(actual: Sequence[Tensor], expected: Sequence[Tensor], rtol: float = 1e-12, atol: float = 1e-13) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("by_request", [False, True])
def test_attention_is_that_of_the_paper(hidden: tuple[int, ...], by_request: bool) -> None:
    unit = attention(hidden)
    events = events_RLW().requires_grad_()
    # The look-up of events drops the gradients of padding.
    padded = events * (events != 0)
    request_B = REQUEST_B if by_request else torch.arange(len(LENGTHS))
    target = targets_BQ(len(request_B)).requires_grad_()
    y = unit(padded, target, request_B, FIRST_R) if by_request else unit(padded, target)
    expected = literal_attention(unit, [events[r, : LENGTHS[r]].unbind() for r in request_B.tolist()], target.unbind())
    close([y, *gradients(unit, y, events, target)], [expected, *gradients(unit, expected, events, target)])


@pytest.mark.parametrize("length", [3, 4, 50])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_padding_adds_nothing(length: int, hidden: tuple[int, ...]) -> None:
    """With numbers whose sums and products are exact, outputs and gradients have the bits of three events alone.

    The numbers are small integers and a slope of 1/4, so no result is rounded, and no order of a sum matters.
    """
    unit = HistoryAttention(ITEMS, AGE, hidden)
    generator = torch.Generator().manual_seed(5)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=generator).float()

    with torch.no_grad():
        for layer in unit.layers:
            layer.weight.copy_(integers(*layer.weight.shape))  # type: ignore[operator, arg-type, union-attr]
            layer.bias.copy_(integers(*layer.bias.shape))  # type: ignore[operator, arg-type, union-attr]
    three, target, factors = integers(4, 3, WIDTH), integers(4, ITEMS), integers(4, WIDTH)
    results = []
    for n in (3, length):
        events = torch.cat([three, torch.zeros(4, n - 3, WIDTH)], dim=1).requires_grad_()
        t = target.clone().requires_grad_()
        y = unit(events, t)
        of_events, *others = torch.autograd.grad((y * factors).sum(), [events, t, *unit.parameters()])
        results.append([y, of_events[:, :3], *others])
    assert results[0][0].abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_padding_changes_the_last_bits_at_most() -> None:
    """A matrix product of three rows may add in another order than one of fifty, so the last bits may differ."""
    unit = attention((4,), torch.float32)
    three, target = events_RLW((3, 2, 3), 3, torch.float32), targets_BQ(3, torch.float32)
    padded = torch.cat([three, torch.zeros(3, 47, WIDTH)], dim=1)
    torch.testing.assert_close(unit(padded, target), unit(three, target), rtol=1e-5, atol=1e-6)


def test_an_empty_history_gives_zero_and_no_gradient() -> None:
    unit = attention()
    events, target = events_RLW((0, 0)).requires_grad_(), targets_BQ(2).requires_grad_()
    y = unit(events, target)
    assert torch.equal(y, torch.zeros(2, WIDTH, dtype=torch.float64))
    _, *others = gradients(unit, y, events, target)
    assert not any(gradient.any() for gradient in others)


def test_the_order_of_events_does_not_matter() -> None:
    unit, target = attention(), targets_BQ(2)
    events = events_RLW((5, 5))
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(unit(events[:, order], target), unit(events, target), rtol=1e-12, atol=1e-13)


def test_the_age_of_an_event_matters() -> None:
    unit, target = attention(), targets_BQ(1)
    events = events_RLW((2,))
    swapped = events.clone()
    swapped[0, [0, 1], ITEMS:] = events[0, [1, 0], ITEMS:]
    assert not torch.allclose(unit(swapped, target), unit(events, target), rtol=1e-3)


def test_samples_do_not_depend_on_each_other() -> None:
    unit, events, target = attention(), events_RLW(), targets_BQ(4)
    others, other_targets = events.clone(), target.clone()
    others[1:], other_targets[1:] = 7 * others[1:] + 1, -3 * other_targets[1:]
    assert torch.equal(unit(others, other_targets)[0], unit(events, target)[0])
    assert not torch.allclose(unit(others, other_targets)[1:], unit(events, target)[1:])


def test_a_shared_history_gives_what_a_history_of_each_sample_gives() -> None:
    unit, target = attention((4, 3)), targets_BQ(len(REQUEST_B)).requires_grad_()
    events = events_RLW().requires_grad_()
    shared, own = unit(events, target, REQUEST_B, FIRST_R), unit(events[REQUEST_B], target)
    close([shared, *gradients(unit, shared, events, target)], [own, *gradients(unit, own, events, target)])


@pytest.mark.parametrize("length", [1, 5, 50])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_flops_are_what_torch_counts(length: int, hidden: tuple[int, ...]) -> None:
    unit = attention(hidden)
    with FlopCounterMode(display=False) as counter:
        unit(events_RLW((1, 1, 1), length), targets_BQ(3))
    assert counter.get_total_flops() == 3 * unit.flops_per_sample(length)


def test_flops_and_parameters_by_hand() -> None:
    unit = attention((4,))
    assert unit.flops_per_sample(50) == 2 * (50 * (8 * 4 + 4 + 8) + 6 * 4)
    assert sum(p.numel() for p in unit.parameters()) == (8 + 6 + 6) * 4 + 4 + 4 + 1 + 1


@pytest.mark.parametrize("converted", [False, True])
def test_bfloat16_is_near_fp32(converted: bool) -> None:
    unit, events, target = attention((4, 3), torch.float32), events_RLW(dtype=torch.float32), targets_BQ(4).float()
    expected = unit(events, target)
    if converted:
        y = unit.bfloat16()(events, target)
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = unit(events.requires_grad_(), target)
        (gradient,) = torch.autograd.grad(y.sum(), [events])
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all()
    difference = (y.float() - expected).abs().max() / expected.abs().max()
    assert 0 < difference < 0.02
    assert torch.equal(y[1], torch.zeros_like(y[1]))


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("length", [0, 1, LENGTH])
def test_samples_of_one_history_have_the_output_of_samples_with_equal_histories(
    length: int, hidden: tuple[int, ...]
) -> None:
    unit, events, targets = attention(hidden), events_RLW((length,), length), targets_BQ(4)
    expected = unit(events.expand(4, -1, -1), targets)
    close([unit.of_one_history(events[0], targets)], [expected])
    assert bool(expected.abs().sum()) is (length > 0)
