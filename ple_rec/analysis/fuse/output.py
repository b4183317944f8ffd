"""The files of a fusion: fusion.toml, fusion.json and fusion.html in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ple_rec.analysis.fuse.fuse import Fused
from ple_rec.analysis.fuse.text import head
from ple_rec.config.load import dump_toml
from ple_rec.errors import UserError
from ple_rec.ranking.losses import FUSION_FILE, RECORD_FILE
from ple_rec.reports.fusion import write_page
from ple_rec.runs.layout import write_text, writing
from ple_rec.storage import Location, make_directory
from ple_rec.text.plain import json_text


def check_out(out: Location, options: Mapping[str, Any]) -> None:
    """Refuse a folder that holds the fusion of other options.

    Args:
        out: Folder of the files.
        options: Options of the fusion to be written, as `fusion.json` will have them.

    Raises:
        UserError: the folder holds the fusion of other options.
    """
    if not (out / FUSION_FILE).exists():
        return
    try:
        before = json.loads((out / RECORD_FILE).read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, LookupError, TypeError):
        before = None
    # An option that an earlier version did not have is None.
    changed = [key for key in options if before is None or before.get(key) != options[key]]
    if changed:
        what = "unknown options" if before is None else f"another {', '.join(changed)}"
        rule = "a fusion is replaced unasked by one of the same options alone"
        raise UserError(str(out), f"holds a fusion of {what}", rule, "pass --overwrite, or give another --out")


def write_fusion(out: Location, done: Fused, *, report_only: bool = False) -> Location:
    """Write the files and return that of the page.

    Args:
        out: Folder of the files.
        done: Outcome of the search.
        report_only: True to write no `fusion.toml`, which `export` and `predict` would take.

    Raises:
        UserError: the folder cannot be written.
    """
    with writing(out):
        make_directory(out)
    if not report_only:
        write_text(out / FUSION_FILE, head(done.record) + dump_toml(done.fusion))
    write_text(out / RECORD_FILE, json_text(done.record) + "\n")
    return write_page(done.record, out)
