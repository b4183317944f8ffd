"""The page of `ple-rec bench gpu`: Markdown that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ple_rec.bench.gpu_parts import Outcome, Part

_TAIL = 40  # lines of a part that failed


def page(
    outcomes: Sequence[Outcome], parts: Sequence[Part], device: str, devices: Sequence[str], before: Mapping[str, Any]
) -> str:
    """The page as it stands.

    Args:
        outcomes: Of the parts that are done.
        parts: All.
        device: "cpu" or "cuda".
        devices: Described.
        before: Conditions (`harness.conditions`).
    """
    count = {state: sum(outcome.state == state for outcome in outcomes) for state in ("ok", "failed", "skipped")}
    missing = parts[len(outcomes) :]
    versions = ", ".join(f"{name} {version}" for name, version in before["versions"].items())
    kind = "a GPU" if device == "cuda" else "a CPU, as a trial of the parts: it says nothing of GPUs"
    lines = [
        f"# Smoke test on {kind}",
        "",
        f"{count['ok']} ok, {count['failed']} failed, {count['skipped']} skipped"
        + (f", {len(missing)} not run yet" if missing else "")
        + f". {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        "",
        *(f"- GPU {index}: {text}" for index, text in enumerate(devices)),
        f"- {before['cpu']}, {before['cores']} cores, {before['memory_bytes'] / 2**30:.0f} GiB, "
        f"load before {before['load_before'][0]:.1f}",
        f"- {versions}",
        "",
        "| part | | seconds | what it shows | result |",
        "|---|---|---|---|---|",
        *(_row(each.part, each.state, f"{each.seconds:.0f}", each.says) for each in outcomes),
        *(_row(part, "not run yet", "", "") for part in missing),
    ]
    for outcome in outcomes:
        if outcome.failed:
            tail = outcome.output.rstrip().splitlines()[-_TAIL:]
            lines += ["", f"## {outcome.part.name}: {outcome.says}", "", *(f"    {line}" for line in tail)]
    return "\n".join(lines) + "\n"


def _row(part: Part, state: str, seconds: str, says: str) -> str:
    cells = (part.name, state, seconds, part.what, says)
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
