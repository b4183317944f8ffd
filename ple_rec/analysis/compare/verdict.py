"""What a comparison says, in words: who gains on every task, where tasks hurt each other, and what is noise.

A gain on a task is *up* where every interval that there is (over seeds, over rows) lies above 0, *down* where every one
lies below, else within the noise. Of a variant:

    gains everywhere     up on every task
    seesaw               up on one task and down on another
    negative transfer    down on a task, up on none
    gains somewhere      up on a task, down on none
    within the noise     neither
    undecided            there is no interval: a single seed, and no rows of the test split
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ple_rec.analysis.compare.gain import SIGNS
from ple_rec.analysis.compare.intervals import seed_interval

RULE = (
    "A gain counts where its 95 % intervals, over seeds and over the rows of the test split as far as there are both, "
    "exclude 0; tasks are judged one by one, without a correction for their number."
)
_AGAINST = (("ple", "mmoe"), ("cgc", "mmoe"), ("ple", "ml_mmoe"), ("ple", "cgc"))


def verdict(results: Mapping[str, Any]) -> dict[str, Any]:
    """`verdict` of compare.json.

    {"rule", "variants": {name: {"verdict", "tasks": {task: "up|down|noise|unknown"}}},
     "pairs": [{"first", "second", "task", "mean", "seed_interval"}], "sentences"}

    Args:
        results: The rest of compare.json.
    """
    variants = {
        name: _judged(variant, results["tasks"])
        for name, variant in results["variants"].items()
        if name != results["baseline"]
    }
    pairs = [pair for first, second in _models(results) for pair in _paired(results, first, second)]
    sentences = [_sentence(name, judged, results) for name, judged in variants.items()]
    if len(results["seeds"]) == 1:
        sentences.append("One seed: there is no interval over seeds, so a gain may be that of another training run.")
    sentences += [_pair_sentence(pair) for pair in pairs]
    return {"rule": RULE, "variants": variants, "pairs": pairs, "sentences": sentences}


def _judged(variant: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    found = {task: _direction((variant["tasks"].get(task) or {}).get("gain")) for task in tasks}
    up, down = (direction in found.values() for direction in ("up", "down"))
    if all(direction == "unknown" for direction in found.values()):
        word = "undecided"
    elif up and down:
        word = "seesaw"
    elif down:
        word = "negative transfer"
    elif all(direction == "up" for direction in found.values()):
        word = "gains everywhere"
    else:
        word = "gains somewhere" if up else "within the noise"
    return {"verdict": word, "tasks": found}


def _direction(gain: Mapping[str, Any] | None) -> str:
    intervals = [gain[key] for key in ("seed_interval", "row_interval") if gain[key] is not None] if gain else []
    if not intervals:
        return "unknown"
    if all(low > 0 for low, _ in intervals):
        return "up"
    return "down" if all(high < 0 for _, high in intervals) else "noise"


def _sentence(name: str, judged: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    variant, baseline = results["variants"][name], results["baseline"]
    told = []
    for task, direction in judged["tasks"].items():
        gain = (variant["tasks"].get(task) or {}).get("gain")
        what = {"up": "", "down": "", "noise": ", within the noise", "unknown": ", no interval"}[direction]
        told.append(f"{task} {gain['mean']:+.5f}{what}" if gain else f"{task}: no run to compare")
    words = {
        "gains everywhere": f"beats {baseline} on every task",
        "seesaw": "shows the seesaw: one task gains, another loses",
        "negative transfer": f"shows negative transfer: it loses to {baseline}",
        "gains somewhere": "gains on some tasks and loses on none",
        "within the noise": f"does not differ from {baseline} beyond the noise",
        "undecided": "is undecided",
    }
    return f"{name} {words[judged['verdict']]} ({'; '.join(told)})."


def _models(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of variants that the paper's claim is about, by their models."""
    by_model = {variant["model"]: name for name, variant in reversed(results["variants"].items())}
    return [(by_model[a], by_model[b]) for a, b in _AGAINST if a in by_model and b in by_model]


def _paired(results: Mapping[str, Any], first: str, second: str) -> list[dict[str, Any]]:
    """What the first has over the second on each task, seed by seed."""
    pairs = []
    for task, facts in results["tasks"].items():
        own, its = (results["variants"][name]["tasks"].get(task, {}).get("values", {}) for name in (first, second))
        found = [SIGNS[facts["kind"]] * (value - its[seed]) for seed, value in own.items() if seed in its]
        if found:
            mean = sum(found) / len(found)
            pairs.append(
                {"first": first, "second": second, "task": task, "mean": mean, "seed_interval": seed_interval(found)}
            )
    return pairs


def _pair_sentence(pair: Mapping[str, Any]) -> str:
    what = f"{pair['first']} over {pair['second']} on {pair['task']}: {pair['mean']:+.5f}"
    if pair["seed_interval"] is None:
        return f"{what}, one seed."
    low, high = pair["seed_interval"]
    noise = "" if low > 0 or high < 0 else ", within the noise"
    return f"{what} ({low:+.5f} to {high:+.5f} over seeds{noise})."
