"""`ple-rec checkpoint list`, `verify` and `show`: tables and JSON of what `ple_rec.checkpoint.inspect` reads."""

from __future__ import annotations

import json as json_format
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group

from ple_rec.cli.console import require_torch, show
from ple_rec.cli.options import flag, verb_app
from ple_rec.errors import DataError, UserError
from ple_rec.text import align_columns, printable
from ple_rec.text.units import short_bytes

if TYPE_CHECKING:
    from ple_rec.checkpoint.inspect import CheckpointEntry
    from ple_rec.storage import Location

app = verb_app("checkpoint", group_commands=Group("actions", sort_key=0))

_RunName = Annotated[
    str,
    flag("run directory, its name under runs/, a directory or s3://... of checkpoints, or one checkpoint", name="DIR"),
]
_Json = Annotated[bool, flag("print JSON instead of a table")]


@app.command(name="list", sort_key=0)
def list_checkpoints(run: _RunName, /, *, json: _Json = False) -> int:
    """List checkpoints with size, ranks and time of writing, and mark `latest` and `best`."""
    from ple_rec.checkpoint.inspect import finished_checkpoints

    checkpoints = finished_checkpoints(_find_checkpoints(run)[0])
    if json:
        show(_json([_entry_record(entry) for entry in checkpoints]))
        return 0
    lines = [["checkpoint", "size", "ranks", "written (UTC)", ""]]
    for entry in checkpoints:
        ranks = "?" if entry.manifest is None else str(entry.manifest.written_by.get("ranks", "?"))
        size = "damaged" if entry.bytes is None else short_bytes(entry.bytes)
        written = "" if entry.written_at is None else f"{entry.written_at:%Y-%m-%d %H:%M:%S}"
        lines.append([entry.path.name, size, ranks, written, ", ".join(entry.pointers)])
    show("\n".join(align_columns(lines, left_columns=(0, 4))))
    return 0


@app.command(name="verify", sort_key=1)
def verify_checkpoints(
    run: _RunName,
    /,
    *,
    checkpoint: Annotated[str | None, flag("latest, best or step-<n>; default: all checkpoints", "NAME")] = None,
    json: _Json = False,
) -> int:
    """Compare every file with its size and checksum in the manifest; exit code 3 if one is missing or differs."""
    from ple_rec.checkpoint.inspect import find_damages, finished_checkpoints
    from ple_rec.checkpoint.listing import require_checkpoint
    from ple_rec.checkpoint.manifest import removal_error

    directory, step = _find_checkpoints(run)
    name = checkpoint or step
    path = None if name is None else require_checkpoint(directory, name)
    paths = [entry.path for entry in finished_checkpoints(directory)] if path is None else [path]
    # `find_damages` returns None for a checkpoint that its run has removed meanwhile.
    errors_by_name = {candidate.name: errors for candidate in paths if (errors := find_damages(candidate)) is not None}
    if not errors_by_name:
        raise removal_error(directory if path is None else path)
    if json:
        show(
            _json(
                {name: [f"{error.place}: {error.value}" for error in errors] for name, errors in errors_by_name.items()}
            )
        )
    else:
        lines = []
        for name, errors in errors_by_name.items():
            lines.append(f"{name}: {'whole' if not errors else 'DAMAGED'}")
            lines += [printable(f"  {error.place}: {error.value}; {error.rule}") for error in errors]
        show("\n".join(lines))
    return DataError.exit_code if any(errors_by_name.values()) else 0


@app.command(name="show", sort_key=2)
def show_checkpoint(
    run: _RunName,
    /,
    *,
    checkpoint: Annotated[str | None, flag("latest, best or step-<n>; default: latest", "NAME")] = None,
    json: _Json = False,
) -> int:
    """List every tensor and value of a checkpoint: shape, type, bytes, number of pieces."""
    directory, step = _find_checkpoints(run)
    require_torch()
    from ple_rec.checkpoint.inspect import read_items
    from ple_rec.checkpoint.listing import require_checkpoint

    path = require_checkpoint(directory, checkpoint or step or "latest")
    items = read_items(path)
    if json:
        show(_json([vars(item) for item in items]))
        return 0
    lines = [["key", "shape", "type", "bytes", "pieces"]]
    for item in items:
        shape = "value" if item.shape is None else " x ".join(f"{n:,}" for n in item.shape) or "scalar"
        size = "" if item.shape is None else short_bytes(item.bytes)
        lines.append([item.key, shape, item.dtype, size, str(item.pieces)])
    total = sum(item.bytes for item in items)
    show("\n".join([*align_columns(lines), "", f"{path}: {len(items)} keys, {short_bytes(total)} of tensors"]))
    return 0


def _entry_record(entry: CheckpointEntry) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "step": None if manifest is None else manifest.step,
        "path": str(entry.path),
        "names": list(entry.pointers),
        "bytes": entry.bytes,
        "written": None if entry.written_at is None else entry.written_at.isoformat(),
        "written_by": None if manifest is None else dict(manifest.written_by),
    }


def _find_checkpoints(name: str) -> tuple[Location, str | None]:
    """Return the directory of the checkpoints that a name stands for, and `step-<n>` if it names just one (else None).

    Raises:
        UserError: The run does not exist, or has no checkpoint.
    """
    from ple_rec.checkpoint.listing import finished_steps, is_checkpoint_name
    from ple_rec.runs.find import find_run
    from ple_rec.runs.layout import CONFIG, configured_checkpoint_place
    from ple_rec.storage import is_address, location

    parent, _, last = name.rstrip("/").rpartition("/")
    folder = location(name)
    step = last if is_checkpoint_name(last) else None
    if step is not None:
        directory = location(parent or ".")
    elif finished_steps(folder) or (is_address(name) and not (folder / CONFIG).is_file()):
        directory = folder
    else:
        directory = configured_checkpoint_place(find_run(name))
    if not finished_steps(directory):
        raise UserError(str(directory), "no checkpoint", "a run has one after its first save", "train the run first")
    return directory, step


def _json(value: Any) -> str:
    return json_format.dumps(value, indent=1)
