"""What a dataset directory holds, on one screen."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ple_rec.config.base import Split
from ple_rec.config.schema import SCHEMA_FILE, STATS_FILE, DatasetSchema

_TABLES_SHOWN = 6


@dataclass(frozen=True)
class Summary:
    """The outcome of `prepare`; `str()` of it is for people.

    Args:
        out: The dataset directory.
        schema: Content of `schema.toml`.
        stats: Content of `stats.json`.
        reused: It was there already.
    """

    out: Path
    schema: DatasetSchema
    stats: dict[str, Any]
    reused: bool

    @classmethod
    def read(cls, out: Path, reused: bool) -> Summary:
        """The summary of a complete dataset directory."""
        fields = tomllib.loads((out / SCHEMA_FILE).read_text(encoding="utf-8"))
        schema = DatasetSchema.model_validate_json(json.dumps(fields))
        stats = json.loads((out / STATS_FILE).read_text(encoding="utf-8"))
        return cls(out, schema, stats, reused)

    def oov_rates(self, split: Split) -> dict[str, float]:
        """Share of rows at row 0, by sparse feature; nothing for an empty split."""
        columns = self.stats["columns"]
        rates = {feature.name: columns[feature.name][split]["oov_rate"] for feature in self.schema.sparse}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def __str__(self) -> str:
        """Splits, tasks, tables, out-of-vocabulary rates and where it lies."""
        schema = self.schema
        verb = "already prepared" if self.reused else "prepared"
        lines = [f"{self.out}: {verb}, fingerprint {schema.fingerprint[:12]}"]
        width = max(5, *(len(task.name) for task in schema.tasks))
        heads = "".join(f"  {task.name:>{width}}" for task in schema.tasks)
        lines.append(f"  {'split':7}{'rows':>12}{'row groups':>12}{heads}  (mean label)")
        for split, info in schema.splits.items():
            means = [self.stats["tasks"][task.name][split]["mean"] for task in schema.tasks]
            cells = "".join(f"  {'-' if mean is None else format(mean, '.4f'):>{width}}" for mean in means)
            lines.append(f"  {split:7}{info.rows:>12,}{info.row_groups:>12,}{cells}")
        tables = sorted(schema.tables, key=lambda table: (-table.rows, table.name))
        shown = ", ".join(f"{table.name} {table.rows:,}" for table in tables[:_TABLES_SHOWN])
        rest = f" and {len(tables) - _TABLES_SHOWN} smaller" if len(tables) > _TABLES_SHOWN else ""
        total = sum(table.rows for table in tables)
        lines.append(f"  {len(schema.sparse)} sparse features, {len(schema.dense)} dense")
        lines.append(f"  {len(tables)} tables of {total:,} rows: {shown}{rest}")
        for split in schema.splits:
            if rates := self.oov_rates(split):
                worst = max(sorted(rates), key=lambda name: rates[name])
                lines.append(f"  out of vocabulary or missing in {split}: at most {rates[worst]:.2%} ({worst})")
        lines += [f"  left out of {d['split']}: {d['rows']:,} rows, {d['reason']}" for d in self.stats["dropped"]]
        return "\n".join(lines)
