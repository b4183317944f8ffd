"""Version of the model that is served before a day: its dataset and its run, which the next day starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ple_rec.days.chain import Chain, PreparedDay
from ple_rec.errors import DataError, Option, UserError
from ple_rec.inference.delta import DeltaInfo
from ple_rec.inference.manifest import MANIFEST, MODEL_FILE, explain_unreadable, parse_manifest, read_manifest
from ple_rec.inference.model_dir import latest_version
from ple_rec.inference.publish import LATEST
from ple_rec.inference.ranker import FUSION_FILE
from ple_rec.runs.layout import holds_run
from ple_rec.storage import Location


@dataclass(frozen=True)
class Version:
    """Exported version of a model.

    Args:
        path: Its folder.
        dataset: Fingerprint of the dataset of its run.
        run: Fingerprint of the configuration of its run.
        checkpoint: Name of the exported checkpoint, such as "step-40".
        base: Name of the version of which it is a delta; None for a whole version.
        precision: Precision of its tables; None if it has none.
    """

    path: Location
    dataset: str
    run: str
    checkpoint: str
    base: str | None
    precision: str | None

    @property
    def form(self) -> str:
        """Form of the version, "whole" or "delta"."""
        return "whole" if self.base is None else "delta"

    @property
    def fusion(self) -> Location:
        """File with the exponents of its fused score."""
        return self.path / FUSION_FILE


def read_served(model_dir: Location) -> Version | None:
    """Return the version that `latest` of a model names; None if nothing was published yet.

    Raises:
        DataError: The version is damaged.
        UserError: The model cannot be read.
    """
    with explain_unreadable(model_dir):
        if not (model_dir / LATEST).is_file():
            return None
    return read_version(latest_version(model_dir))


def read_version(path: Location) -> Version:
    """Return a version from its `model.json`.

    Raises:
        DataError: The file is missing or damaged.
    """
    file = path / MODEL_FILE
    try:
        with explain_unreadable(path):
            description: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        card, delta = description["card"], DeltaInfo.of_description(description)
        return Version(
            path,
            dataset=card["dataset"]["fingerprint"],
            run=card["run"]["fingerprint"],
            checkpoint=card["run"]["checkpoint"],
            base=None if delta is None else delta.base,
            precision=next((str(table["precision"]) for table in description["tables"]), None),
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        fix = f"let {LATEST} name a version that is not damaged"
        raise DataError(str(file), "missing or damaged", "every version has it", fix) from error


def is_complete(path: Location) -> bool:
    """Return True if a version was written to its end."""
    with explain_unreadable(path):
        return (path / MANIFEST).is_file()


def version_bytes(path: Location) -> int:
    """Return the size of a version's files."""
    return sum(entry.size for entry in parse_manifest(path, read_manifest(path)).values())


def find_served_day(
    chain: Chain, served: Version | None, before: PreparedDay, model_dir: Location
) -> tuple[PreparedDay, Version]:
    """Return the day whose run made the served version, and this version; the next day's run starts from them.

    Args:
        chain: Chain of days.
        served: Version that is served; None if there is none.
        before: Day to which the next one is appended.
        model_dir: Folder of the model.

    Raises:
        UserError: Nothing is served, the served version is not of this chain, or its run is gone.
    """
    if served is None:
        raise UserError(
            str(model_dir),
            f"has no file {LATEST}",
            "a day starts from the run of the served version",
            f"name the model of this chain, or publish a run of it: ple-rec export {chain.run(before.name)} --out "
            f"{model_dir}",
        )
    if served.dataset not in before.lineage:
        raise UserError(
            str(served.path),
            f"was trained on dataset {served.dataset[:12]}",
            f"it is served, but that dataset is not one of the chain {chain.folder}",
            f"let {model_dir / LATEST} name a version of the chain, give the chain a model of its own, or begin a new "
            f"chain with {Option.NEW_CHAIN}",
        )
    start = chain.find(served.dataset)
    if start is None or not holds_run(chain.run(start.name)):
        place = chain.folder if start is None else chain.run(start.name)
        raise UserError(
            str(place),
            f"has no run of the served version {served.path.name}",
            "a day starts from the run of the served version",
            f"put the run back, or let {model_dir / LATEST} name a version whose run is there",
        )
    return start, served
