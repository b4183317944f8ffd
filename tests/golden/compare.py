"""Hold what this version writes to what an earlier one wrote; a message says what a renamer has to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from tests.golden.doors import RULE
from tests.golden.steps import ARTEFACTS, NEWER

# The last bits of sums follow from the processor. The training of 40 steps on one rank, on two, and without the vector
# instructions beyond SSE4 differed by at most 5e-7 in a weight and 2e-7 in a metric; one wrong step moves them by 1e-3.
TOLERANCE = 1e-5
# Two rows whose scores are that close may change places: one pair in hundreds of a split, or in tens of a group.
_OF_ORDER = dict.fromkeys(("auc", "gauc"), 0.02)


def expected(section: str) -> Any:
    """Return a section of what was written down by the newest version that changed it.

    Raises:
        FileNotFoundError: No version has this section.
    """
    for folder in (*NEWER, ARTEFACTS):
        if (file := folder / "expected" / f"{section}.json").exists():
            return json.loads(file.read_text("utf-8"))
    raise FileNotFoundError(
        f"no expected/{section}.json in {ARTEFACTS} or a newer folder; write it in tests/golden/make.py, make all "
        f"artefacts elsewhere (python -m tests.golden.make OUT), and copy the file: tests/golden/README.md"
    )


def hold(found: Any, *path: str, exact: bool = False) -> None:
    """Refuse a document that lacks something of what was expected.

    Args:
        found: What this version does, as JSON has it.
        path: The section, and keys inside it.
        exact: Whether nothing may be added either.

    Raises:
        AssertionError: something is gone, or is another; all of it is listed.
    """
    section, *inner = path
    was = expected(section)
    for key in inner:
        assert key in was, f"expected/{section}.json has no {key!r}, only {', '.join(sorted(was))}"
        was = was[key]
    fail(differences(was, json.loads(json.dumps(found)), exact), f"expected/{section}.json")


def fail(changed: list[str], place: str) -> None:
    """Raise where there are differences, with all of them and the rule.

    Raises:
        AssertionError: there are.
    """
    if changed:
        raise AssertionError("\n".join([f"{place}: {len(changed)} difference(s)", *changed[:40], RULE]))


def differences(was: Any, now: Any, exact: bool = False, place: str = "") -> list[str]:
    """List what differs between two JSON documents; keys and items that were added do not, unless `exact`."""
    if isinstance(was, dict) and isinstance(now, dict):
        changed = [f"  {place}/{key}: is gone" for key in was if key not in now]
        changed += [f"  {place}/{key}: is new" for key in now if exact and key not in was]
        return changed + [
            each for key in was if key in now for each in differences(was[key], now[key], exact, f"{place}/{key}")
        ]
    if isinstance(was, list) and isinstance(now, list):
        if all(isinstance(item, str) for item in [*was, *now]) and not place.endswith(
            "/required"
        ):  # names, in any order
            changed = [f"  {place}: {item!r} is gone" for item in was if item not in now]
            return changed + [f"  {place}: {item!r} is new" for item in now if exact and item not in was]
        if len(was) == len(now):
            pairs = enumerate(zip(was, now, strict=True))
            return [each for i, (a, b) in pairs for each in differences(a, b, exact, f"{place}/{i}")]
    return [] if was == now else [f"  {place}: was {was!r}, is {now!r}"]


def far(was: Any, now: Any, place: str = "") -> list[str]:
    """List what differs between two documents of figures by more than another processor does."""
    if isinstance(was, dict) and isinstance(now, dict):
        gone = [f"  {place}/{key}: is gone" for key in was if key not in now]
        return gone + [each for key in was if key in now for each in far(was[key], now[key], f"{place}/{key}")]
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        return [each for i, (a, b) in enumerate(zip(was, now, strict=True)) for each in far(a, b, f"{place}/{i}")]
    if isinstance(was, float) and isinstance(now, float):
        allowed = _OF_ORDER.get(place.rpartition("/")[2], TOLERANCE * max(1.0, abs(was)))
        return [] if abs(was - now) <= allowed else [f"  {place}: was {was}, is {now}"]
    return [] if was == now else [f"  {place}: was {was!r}, is {now!r}"]


def tensors(checkpoint: Path, scratch: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint by its name, read by torch alone.

    Args:
        checkpoint: Directory of the checkpoint.
        scratch: A folder for a copy in one file.
    """
    dcp_to_torch_save(str(checkpoint), str(scratch / "whole.pt"))
    found: dict[str, torch.Tensor] = {}

    def walk(content: Any, place: str) -> None:
        if isinstance(content, dict):
            for key, value in content.items():
                walk(value, f"{place}.{key}" if place else str(key))
        elif isinstance(content, torch.Tensor):
            found[place] = content

    walk(torch.load(scratch / "whole.pt", weights_only=True), "")
    return found


def far_tensors(was: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> list[str]:
    """List tensors that differ by more than another processor makes them."""
    changed = [f"  {name}: is gone" for name in was if name not in now]
    changed += [f"  {name}: is new" for name in now if name not in was]
    for name in sorted(was.keys() & now.keys()):
        before, after = was[name], now[name]
        shapes = [f"{each.dtype} {list(each.shape)}" for each in (before, after)]
        if shapes[0] != shapes[1]:
            changed.append(f"  {name}: was {shapes[0]}, is {shapes[1]}")
        elif not torch.allclose(before.double(), after.double(), rtol=TOLERANCE, atol=TOLERANCE):
            changed.append(f"  {name}: differs by up to {(before.double() - after.double()).abs().max():.1e}")
    return changed
