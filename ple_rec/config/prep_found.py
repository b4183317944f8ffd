"""`[found]` of a dataset's `prep.toml`: values that the configuration left to prep, and that prep took from the log."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydantic import Field, model_validator

from ple_rec.config.base import Config, Name
from ple_rec.config.prep_inputs import ColumnType


class ThresholdValues(Config):
    """Thresholds of a task, one for each part into which `threshold.by` cuts the training rows."""

    edges: tuple[float, ...] = Field((), description="ascending values of `by` at which the next part begins")
    values: tuple[float, ...] = Field(description="threshold of each part, one more than edges")
    missing: float | None = Field(None, description="threshold of rows without a value of `by`")

    @model_validator(mode="after")
    def _a_value_for_each_part(self) -> ThresholdValues:
        if len(self.values) != len(self.edges) + 1:
            raise ValueError("give one value more than edges")
        return self


class Found(Config):
    """Values that prep took from the log. `--append` keeps those of the parent; another preparation takes its own."""

    day_1: str | None = Field(None, description="date of day 1")
    edges: dict[Name, tuple[float, ...]] = Field({}, description="edges of each sparse feature with `quantiles`")
    thresholds: dict[Name, ThresholdValues] = Field({}, description="thresholds of each task with `threshold`")
    types: dict[Name, dict[str, ColumnType]] = Field(
        {}, description="types of undeclared CSV columns, by table: `log` or the name of a side table"
    )


def with_found_table(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a preparation as this version writes it.

    Format 4 and earlier wrote the edges at quantiles into `sparse[i].edges`, beside `edge_quantiles`, and the types of
    CSV columns into `csv.inferred`. They also wrote day 1 and thresholds to places where a user may have given them;
    these stay there.
    """
    document = deepcopy(raw)
    edges, types = {}, {}
    try:
        for name, table in {"log": document["log"], **document.get("sides", {})}.items():
            if "inferred" in table.get("csv", {}):
                types[name] = table["csv"].pop("inferred")
        for feature in document.get("sparse", ()):
            if "edge_quantiles" in feature:
                edges[feature["name"]] = feature.pop("edges")
                feature["quantiles"] = feature.pop("edge_quantiles")
    except (AttributeError, KeyError, TypeError):  # the caller checks the document and names what is wrong with it
        return raw
    return document | {"found": {"edges": edges, "types": types}} if edges or types else raw
