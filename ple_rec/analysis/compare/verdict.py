"""What a comparison says, in words, and by which rule. Pure functions of the document that `compare.json` holds.

The rule (`RULE`): each task's gain is judged by its 95 % intervals, that over seeds and that over the rows of the test
split. It is *better* where every interval there is lies above 0, *worse* where every one lies below 0, else *noise*;
without any interval it is *not judged*. A variant is then

    better        every task better                             beats the baseline on all tasks
    seesaw        one task better, another worse                it gives one task what it takes from another
    negative      some task worse, none better                  negative transfer; a seesaw is one too
    some          some task better, none worse
    noise         no task better or worse
    not judged    a task has no interval, and the others decide none of seesaw and negative transfer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.analysis.compare.gain import gain_entry

RULE = (
    "A gain is the metric's difference to {baseline} at the same seed, positive where better (AUC up, MSE down). It "
    "counts as better, or worse, only where every 95 % interval there is, over seeds (Student's t) and over the test "
    "split's groups (bootstrap), lies above, or below, 0; else it is noise. Beats {baseline}: every task better. "
    "Negative transfer: some task worse. Seesaw: one task better and another worse."
)
_OVER = {"ple": ("mmoe", "ml_mmoe"), "cgc": ("mmoe",)}  # models, and those that the paper puts below them

Document = Mapping[str, Any]


def pairs_of(document: Document) -> list[tuple[str, str]]:
    """The variants that the paper claims to lie above others, and those others, where both are there."""
    models = {name: variant["model"] for name, variant in document["variants"].items()}
    return [(a, b) for a in models for b in models if models[b] in _OVER.get(models[a], ())]


def pair_key(a: str, b: str) -> str:
    """Of a pair in `pairs`."""
    return f"{a} over {b}"


def verdict_of(document: Document) -> dict[str, Any]:
    """The verdict on every variant and pair.

    Args:
        document: `compare.json`, its `verdict` aside. It may have `pairs`: for a `pair_key` the gain of every task, as
            a variant's `gain`; pairs that are not there are computed from the seeds' values, without row intervals.

    Returns:
        `{"rule", "variants": {name: judged}, "pairs": {key: judged}, "sentences": [..]}`, judged being `{"verdict": one
        of the words above, "tasks": {task: "better" | "worse" | "noise" | "not judged"}, "beats": bool,
        "negative_transfer": [tasks], "seesaw": bool, "sentence"}`. The baseline is not among the variants.
    """
    baseline, metrics = document["baseline"], {task: told["metric"] for task, told in document["tasks"].items()}
    variants = {
        name: _judged(name, baseline, {task: variant["tasks"].get(task, {}).get("gain") for task in metrics}, metrics)
        for name, variant in document["variants"].items()
        if name != baseline
    }
    for name, variant in document["variants"].items():
        if variant.get("failed") and name in variants:
            seeds = ", ".join(variant["failed"])
            variants[name]["sentence"] += f" Failed and left out: seed {seeds}."
    pairs = {}
    for a, b in pairs_of(document):
        found = document.get("pairs", {}).get(pair_key(a, b)) or _pair(document, a, b)
        entries = {task: found.get(task) for task in metrics}  # of one without a metric, nothing can be judged
        pairs[pair_key(a, b)] = _judged(a, b, entries, metrics)
    sentences = [judged["sentence"] for judged in (*variants.values(), *pairs.values())]
    number = sum(word != "not judged" for judged in variants.values() for word in judged["tasks"].values())
    if number:
        sentences.append(
            f"{number} gains over {baseline} were judged, each by itself at 95 %: were there no differences at all, up "
            f"to about {number / 20:.1f} of them would still pass for one."
        )
    if failed := document["variants"].get(baseline, {}).get("failed"):
        sentences.append(f"{baseline}, the baseline, failed with seed {', '.join(failed)}: no gain has those seeds.")
    return {"rule": RULE.format(baseline=baseline), "variants": variants, "pairs": pairs, "sentences": sentences}


def _pair(document: Document, a: str, b: str) -> dict[str, Any]:
    tasks = [document["variants"][name]["tasks"] for name in (a, b)]
    return {
        task: gain_entry(told["metric"], *(values.get(task, {}).get("values", {}) for values in tasks))
        for task, told in document["tasks"].items()
    }


def judged_task(entry: Mapping[str, Any] | None) -> str:
    """better, worse, noise or not judged, by all intervals that a gain has."""
    intervals = [entry[key] for key in ("seed_interval", "row_interval") if entry and entry.get(key) is not None]
    if not intervals:
        return "not judged"
    if all(low > 0 for low, _ in intervals):
        return "better"
    return "worse" if all(high < 0 for _, high in intervals) else "noise"


def _judged(
    name: str, other: str, entries: Mapping[str, Mapping[str, Any] | None], metrics: Mapping[str, str]
) -> dict[str, Any]:
    tasks = {task: judged_task(entry) for task, entry in entries.items()}
    words = set(tasks.values())
    verdict = _word(words)
    told = {
        "better": f"{name} beats {other} on all tasks",
        "seesaw": f"{name} shows the seesaw against {other}: better on {_named(tasks, 'better')}, worse on "
        f"{_named(tasks, 'worse')}",
        "negative": f"{name} shows negative transfer against {other}: worse on {_named(tasks, 'worse')}, better on "
        "none",
        "some": f"{name} is better than {other} on {_named(tasks, 'better')}, and within noise on "
        f"{_named(tasks, 'noise')}",
        "noise": f"{name} is within noise of {other} on all tasks",
        "not judged": f"{name} cannot be judged against {other} on {_named(tasks, 'not judged')}",
    }[verdict]
    numbers = "; ".join(_numbers(task, entries[task], metrics[task]) for task in tasks)
    return {
        "verdict": verdict,
        "tasks": tasks,
        "beats": verdict == "better",
        "negative_transfer": [task for task, word in tasks.items() if word == "worse"],
        "seesaw": verdict == "seesaw",
        "sentence": f"{told}: {numbers}.",
    }


def _word(words: set[str]) -> str:
    if "worse" in words:
        return "seesaw" if "better" in words else "negative"
    if "not judged" in words or not words:
        return "not judged"
    if words == {"better"}:
        return "better"
    return "some" if "better" in words else "noise"


def _named(tasks: Mapping[str, str], word: str) -> str:
    names = [task for task, found in tasks.items() if found == word]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _numbers(task: str, entry: Mapping[str, Any] | None, metric: str) -> str:
    """`income +0.0021 AUC (+0.001 to +0.0032 over 10 seeds, +0.0004 to +0.0038 over test rows)`."""
    if not entry or entry["mean"] is None:
        return f"{task} no {metric.upper()} gain (no seed has the metric on both sides)"
    seeds = len(entry["values"])
    over = [
        _range(entry["seed_interval"], f"over {seeds} seeds") if entry["seed_interval"] else "one seed: no interval",
        *([_range(entry["row_interval"], "over test rows")] if entry.get("row_interval") else []),
    ]
    return f"{task} {_signed(entry['mean'])} {metric.upper()} ({', '.join(over)})"


def _range(interval: Sequence[float], over: str) -> str:
    return f"{_signed(interval[0])} to {_signed(interval[1])} {over}"


def _signed(value: float) -> str:
    return f"{value:+.2g}"
