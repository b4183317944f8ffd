"""`ple-rec checkpoint`: the arguments of list, verify and show, and what they print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ple_rec.errors import UserError
from ple_rec.text import aligned, printable
from ple_rec.text.units import short_bytes

if TYPE_CHECKING:
    from ple_rec.checkpoint.inspect import Entry
    from ple_rec.checkpoint.place import Place

_DAMAGED = 3


def add_checkpoint(verb: argparse.ArgumentParser) -> None:
    """The arguments of `ple-rec checkpoint`."""
    actions = verb.add_subparsers(dest="subject", required=True, metavar="ACTION")
    verb.set_defaults(subjects=actions.choices)
    helps = {
        "list": "steps, size, when, by how many ranks, which are `latest` and `best`",
        "verify": "read every byte and compare it with the checksums of the manifest; exit code 3 where one differs",
        "show": "every tensor of a checkpoint: shape, type, bytes, in how many pieces",
    }
    for name, text in helps.items():
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        action.add_argument(
            "run",
            metavar="DIR",
            help="run directory, its name under runs/, a directory or s3://... of checkpoints, or one of them",
        )
        if name != "list":
            default = "all of them" if name == "verify" else "latest"
            action.add_argument("--checkpoint", metavar="NAME", help=f"latest, best or step-<n>; default: {default}")
        action.add_argument("--json", action="store_true", help="print JSON instead of a table")


def checkpoint(args: argparse.Namespace, need_torch: Callable[[], None]) -> tuple[str, int]:
    """Run the action; what it prints, and the exit code.

    Args:
        args: Arguments of the command line.
        need_torch: Imports torch or says what is missing; called by `show` alone, which reads what DCP wrote.

    Raises:
        UserError: there is no such run or checkpoint.
        DataError: `show` of one that is damaged, or that holds more than tensors and plain values.
    """
    from ple_rec.checkpoint.listing import finished_steps

    actions: dict[str, Callable[[argparse.Namespace, Place], tuple[str, int]]] = {
        "list": _list,
        "verify": _verify,
        "show": _show,
    }
    directory, step = _directory(args.run)
    if step is not None and args.subject != "list" and args.checkpoint is None:
        args.checkpoint = step
    if not finished_steps(directory):
        raise UserError(str(directory), "no checkpoint", "a run has some after its first save", "train the run first")
    if args.subject == "show":
        need_torch()
    return actions[args.subject](args, directory)


def _list(args: argparse.Namespace, directory: Place) -> tuple[str, int]:
    from ple_rec.checkpoint.inspect import entries

    found = entries(directory)
    if args.json:
        return _json([_record(entry) for entry in found]), 0
    lines = [["checkpoint", "size", "ranks", "written (UTC)", ""]]
    for entry in found:
        ranks = "?" if entry.manifest is None else str(entry.manifest.written_by.get("ranks", "?"))
        size = "damaged" if entry.bytes is None else short_bytes(entry.bytes)
        lines.append([entry.path.name, size, ranks, f"{entry.written:%Y-%m-%d %H:%M:%S}", ", ".join(entry.names)])
    return "\n".join(aligned(lines, left=(0, 4))), 0


def _record(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "step": None if manifest is None else manifest.step,
        "path": str(entry.path),
        "names": list(entry.names),
        "bytes": entry.bytes,
        "written": entry.written.isoformat(),
        "written_by": None if manifest is None else dict(manifest.written_by),
    }


def _verify(args: argparse.Namespace, directory: Place) -> tuple[str, int]:
    from ple_rec.checkpoint.inspect import damages, entries
    from ple_rec.checkpoint.manifest import removal_error

    chosen = None if args.checkpoint is None else _named(directory, args.checkpoint)
    paths = [entry.path for entry in entries(directory)] if chosen is None else [chosen]
    found = {path.name: errors for path in paths if (errors := damages(path)) is not None}
    if not found:
        raise removal_error(directory if chosen is None else chosen)
    code = _DAMAGED if any(found.values()) else 0
    if args.json:
        said = {name: [f"{error.place}: {error.value}" for error in errors] for name, errors in found.items()}
        return _json(said), code
    lines = []
    for name, errors in found.items():
        lines.append(f"{name}: {'whole' if not errors else 'DAMAGED'}")
        lines += [printable(f"  {error.place}: {error.value}; {error.rule}") for error in errors]
    return "\n".join(lines), code


def _show(args: argparse.Namespace, directory: Place) -> tuple[str, int]:
    from ple_rec.checkpoint.inspect import items

    path = _named(directory, args.checkpoint or "latest")
    found = items(path)
    if args.json:
        return _json([vars(item) for item in found]), 0
    lines = [["key", "shape", "type", "bytes", "pieces"]]
    for item in found:
        shape = "value" if item.shape is None else " x ".join(f"{n:,}" for n in item.shape) or "scalar"
        size = "" if item.shape is None else short_bytes(item.bytes)
        lines.append([item.key, shape, item.dtype, size, str(item.pieces)])
    total = sum(item.bytes for item in found)
    return "\n".join([*aligned(lines), "", f"{path}: {len(found)} keys, {short_bytes(total)} of tensors"]), 0


def _directory(name: str) -> tuple[Place, str | None]:
    """The checkpoints that are meant: of a run, a directory of them, or the one that is named and those beside it."""
    from ple_rec.analysis.find_runs import named_run
    from ple_rec.checkpoint.listing import finished_steps, is_step
    from ple_rec.checkpoint.place import place
    from ple_rec.train.run_dir import checkpoints_of

    above, _, last = name.rstrip("/").rpartition("/")
    if is_step(last):
        return place(above or "."), last
    if "://" in name or (Path(name).is_dir() and finished_steps(Path(name))):
        return place(name), None
    return checkpoints_of(named_run(name)), None


def _named(directory: Place, name: str) -> Place:
    from ple_rec.checkpoint.listing import require_checkpoint

    return require_checkpoint(directory, name)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1)
