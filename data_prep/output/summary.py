"""Summary of a dataset directory, which `ple-rec prep` prints: at most 25 lines on its splits, tasks and columns."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.stats.correlation import shift
from data_prep.stats.drift import LARGE
from ple_rec.config.base import Split
from ple_rec.config.schema import SCHEMA_FILE, STATS_FILE, DatasetSchema, Task
from ple_rec.storage import Location

# Largest numbers of embedding tables in a line, of tasks, and of reasons for which rows were left out.
_TABLES_SHOWN, _TASKS_SHOWN, _REASONS_SHOWN = 5, 7, 3
_LARGE_SD = 10.0  # The squared loss of a label with a larger standard deviation may dominate the sum of all losses.


@dataclass(frozen=True)
class Summary:
    """Result of `prepare`: a complete dataset directory; `str()` gives the summary as text.

    Args:
        out: Path or address of the dataset directory.
        schema: Content of `schema.toml`.
        stats: Content of `stats.json`.
        reused: True if the dataset existed before, so that nothing was prepared.
        parent: Schema of the dataset to which a day was appended, and whose ids the day keeps; None if no day was
            appended.
    """

    out: Location
    schema: DatasetSchema
    stats: dict[str, Any]
    reused: bool
    parent: DatasetSchema | None = None

    @classmethod
    def read(cls, out: Location, reused: bool, parent: DatasetSchema | None = None) -> Summary:
        """Read the summary of a complete dataset directory."""
        fields = tomllib.loads((out / SCHEMA_FILE).read_text(encoding="utf-8"))
        schema = DatasetSchema.model_validate_json(json.dumps(fields))
        stats = json.loads((out / STATS_FILE).read_text(encoding="utf-8"))
        return cls(out, schema, stats, reused, parent)

    def oov_rates(self, split: Split) -> dict[str, float]:
        """Return the share of ids that are row 0 (unknown or missing) by sparse feature; empty for an empty split."""
        columns = self.stats["columns"]
        rates = {feature.name: columns[feature.name][split]["oov_rate"] for feature in self.schema.sparse}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def __str__(self) -> str:
        """Return the summary as text, in at most 25 lines."""
        verb = "already prepared" if self.reused else "prepared"
        parent = "" if self.schema.parent is None else f", parent {self.schema.parent[:12]}"
        lines = [f"{self.out}: {verb}, fingerprint {self.schema.fingerprint[:12]}{parent}"]
        lines += [
            *self._splits(),
            *self._tasks(),
            *self._shift(),
            *self._columns(),
            *self._drift(),
            *self._dropped(),
            *self._json(),
        ]
        page = self.out / "stats.html"
        return "\n".join([*lines, *([f"  look at {page}"] if page.is_file() else [])])

    def _splits(self) -> list[str]:
        lines = [f"  {'split':7}{'rows':>15}{'row groups':>12}  days"]
        for split, info in self.schema.splits.items():
            days = [day["day"] for day in self.stats.get("days", ()) if day["rows"].get(split)]
            span = f"{len(days)}: {days[0]} to {days[-1]}" if len(days) > 1 else "".join(days)
            lines.append(f"  {split:7}{info.rows:>15,}{info.row_groups:>12,}  {span}".rstrip())
        return lines

    def _tasks(self) -> list[str]:
        width = max(7, *(min(24, len(task.name)) for task in self.schema.tasks))
        heads = "".join(f"{split:>12}" for split in self.schema.splits)
        lines = [f"  {'task':{width}}{heads}  mean; positives or sd (train); outside (all)"]
        for task in self.schema.tasks[:_TASKS_SHOWN]:
            by_split = self.stats["tasks"][task.name]
            means = [by_split[split]["mean"] for split in self.schema.splits]
            cells = "".join(f"{'-' if mean is None else format(mean, '.4f'):>12}" for mean in means)
            train = by_split["train"]
            notes = [f"{train['positives']:,}"] if "positives" in train else []
            notes += [f"sd {train['std']:.4g}, at most {train['max']:.4g}"] if train.get("std") is not None else []
            outside = sum(stats.get("outside", {}).get("positives", 0) for stats in by_split.values())
            notes += [f"{outside:,} outside"] if outside and task.space is not None else []
            lines.append(f"  {task.name[:24]:{width}}{cells}  {'; '.join(notes)}".rstrip())
        more = len(self.schema.tasks) - _TASKS_SHOWN
        lines += [f"  and {more} more tasks"] if more > 0 else []
        large = [task.name for task in self.schema.tasks if self._sd(task) > _LARGE_SD]
        if large and len(self.schema.tasks) > 1:
            losses = "its squared loss" if len(large) == 1 else "their squared losses"
            lines.append(
                f"  {losses} may dominate the other losses: {', '.join(large)}; scale the label, see docs/prep.md#tasks"
            )
        return lines

    def _sd(self, task: Task) -> float:
        """Return the standard deviation of a regression label in train; 0 if it is unknown."""
        return self.stats["tasks"][task.name]["train"].get("std") or 0.0

    def _shift(self) -> list[str]:
        """Return a line on the shift of a correlation of labels between values of a column that is farthest above 0.

        The lower end of its interval decides, which is widened for the number of shifts that are compared. There is no
        line if the statistics have no shifts.
        """
        compared = [(each, column) for column in self.stats.get("slices", ()) for each in column["shift"]]
        shifts = [
            (shift(column["values"], entry["a"], entry["b"], len(compared)), column["column"])
            for entry, column in compared
        ]
        significant = [(each, column) for each, column in shifts if each is not None and each["interval"][0] > 0]
        if not significant:
            return ["  no correlation of labels shifts significantly between values of a column"] if compared else []
        largest, column = max(significant, key=lambda pair: pair[0]["interval"][0])
        low, high = largest["interval"]
        text = f"correlation of {largest['a']} and {largest['b']} shifts by {largest['shift']:.3f}"
        return [f"  {text} ({low:.3f} to {high:.3f}) between values of {column}"]

    def _columns(self) -> list[str]:
        schema = self.schema
        tables = sorted(schema.tables, key=lambda table: (-table.allocated_rows, table.name))
        total = sum(table.allocated_rows for table in tables)
        vectors = f", {count} vector{'s' if count > 1 else ''}" if (count := len(schema.vectors)) else ""
        lines = [f"  {len(schema.sparse)} sparse features, {len(schema.dense)} dense{vectors}"]
        if schema.histories:
            lengths = [(each.name, self.stats["columns"][each.name]["train"], each.length) for each in schema.histories]
            texts = [
                f"{name} {train['mean_length'] or 0:.1f} of at most {most:,}, none in "
                f"{train['empty'] / max(train['rows'], 1):.1%} of rows"
                for name, train, most in lengths
            ]
            lines.append(_listed("  events in histories of train: ", texts, "; "))
        sizes = [f"{table.name} {table.allocated_rows:,}" for table in tables]
        lines += [_listed(f"  {len(tables)} tables of {total:,} rows: ", sizes)] if tables else []
        lines += self._new_values()
        overflow = sorted(self.stats.get("overflow", {}).items(), key=lambda item: (-item[1]["values"], item[0]))
        counts = [f"{each['values']:,} of {table} ({each['handling']})" for table, each in overflow]
        lines += [_listed("  values beyond capacity: ", counts)] if counts else []
        for split in schema.splits:
            if rates := self.oov_rates(split):
                worst = max(sorted(rates), key=lambda name: rates[name])
                lines.append(f"  out of vocabulary or missing in {split}: at most {rates[worst]:.2%} ({worst})")
        return lines

    def _new_values(self) -> list[str]:
        """Return lines on the tables of an appended day.

        One has the tables with new values: new values, and free rows out of all rows. New values without a row of their
        own are counted, too. Another has the tables whose values are admitted or expire.
        """
        if self.parent is None:
            return []
        changing = self.stats.get("table_rows", {})
        rows = [
            f"{table} {each['in_use']:,} in use, {each['free']:,} free, {each['assigned']:,} assigned and "
            f"{each['freed']:,} freed on this day"
            for table, each in sorted(changing.items(), key=lambda item: (-item[1]["in_use"], item[0]))
        ]
        lines = [_listed("  rows for values: ", rows, "; ")] if rows else []
        before, overflow = {table.name: table.rows for table in self.parent.tables}, self.stats["overflow"]
        new = {t.name: t.rows - before[t.name] + overflow.get(t.name, {}).get("values", 0) for t in self.schema.tables}
        grown = (t for t in self.schema.tables if new[t.name] and t.name not in changing)
        tables = sorted(grown, key=lambda t: (-new[t.name], t.name))
        counts = [f"{t.name} {new[t.name]:,}, {len(t.free_rows):,} of {t.allocated_rows:,}" for t in tables]
        lines += [_listed("  new values, free rows: ", counts, "; ")] if counts else []
        return lines or ["  no new value"]

    def _drift(self) -> list[str]:
        """Return a line on the column whose population stability index (PSI) exceeds twice its `chance` by most.

        `chance` is the mean that the PSI would have without drift.
        """
        drift = self.stats.get("drift", {})
        known = {name: (each["psi"], each["chance"] or 0.0) for name, each in drift.items() if each["psi"] is not None}
        if not known:
            return []
        worst = max(sorted(known), key=lambda name: known[name][0] - 2 * known[name][1])
        psi, chance = known[worst]
        return [
            f"  drift: PSI {psi:.3f} ({worst}), {chance:.3f} by chance, the farthest beyond it; large from {LARGE} and "
            "twice chance"
        ]

    def _dropped(self) -> list[str]:
        reasons = sorted((d for d in self.stats["dropped"] if d["rows"]), key=lambda d: -d["rows"])
        lines = []
        for each in reasons[:_REASONS_SHOWN]:
            split = f" of {each['split']}" if each["split"] else ""
            lines.append(f"  left out{split}: {each['rows']:,} rows, {each['reason']}")
        if rest := reasons[_REASONS_SHOWN:]:
            lines.append(f"  and {sum(each['rows'] for each in rest):,} rows for other reasons")
        return lines

    def _json(self) -> list[str]:
        """Return a line on the texts that are read as JSON, if some are null or not JSON."""
        texts = sorted(self.stats.get("json", ()), key=lambda each: (-each["not_json"], -each["nulls"], each["text"]))
        counts = [
            f"{each['text']} {each['not_json']:,} of {each['rows'] - each['nulls']:,}, {each['nulls']:,} rows without"
            for each in texts
            if each["not_json"] or each["nulls"]
        ]
        return [_listed("  texts that are not JSON: ", counts, "; ")] if counts else []


def _listed(heading: str, items: Sequence[str], separator: str = ", ") -> str:
    """Return a line of the first items and the number of the others; items are sorted by size, the largest first."""
    rest = f" and {len(items) - _TABLES_SHOWN} smaller" if len(items) > _TABLES_SHOWN else ""
    return f"{heading}{separator.join(items[:_TABLES_SHOWN])}{rest}"
