"""The rules under which a row is bad: docs/prep.md has each of them."""

from __future__ import annotations

import re
from pathlib import Path

import ibis

from data_prep.transforms.resolve import resolve
from data_prep.transforms.rows import derive
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig

TOML = """
name = "rules"
weight = "ratio"

[log]
files = ["log"]

[time]
value = "number"
unit = "ms"

[split]
by = "hash"
value = "number"
valid = 0.1
test = 0.1

[sampling]
keep = "flag"
rate = 0.5
hash = ["number"]

[checks]
sound = "flag"

[[sparse]]
name = "bucket"
value = "ratio"
edges = [1.0]

[[sparse]]
name = "tags"
bag = true
weights = "scores"

[[sparse]]
name = "huge"

[[dense]]
name = "ratio"

[[tasks]]
name = "click"
kind = "binary"
label = "flag"
threshold = { value = "ratio", by = "ratio", quantile = 0.5, edges = [], values = [1.0] }
"""
KINDS = {"number": "int64", "ratio": "float64", "flag": "boolean", "tags": "array<string>", "scores": "array<float64>"}
BY_COLUMN = 'by = "column"\nvalue = "tags_text"\n'


def test_the_page_has_every_rule_of_the_code(tmp_path: Path, repository: Path) -> None:
    rows = ibis.table(KINDS | {"huge": "uint64", "tags_text": "string", "__position": "int64"}, name="log")
    keys = set()
    for text in (TOML, re.sub(r'by = "hash"\n(.*\n){3}', BY_COLUMN, TOML)):
        (tmp_path / "rules.toml").write_text(text)
        resolved = resolve(load_config(PrepConfig, tmp_path / "rules.toml"), "rules.toml")
        keys |= {rule.key for rule in derive(rows, resolved).rules}
    sections = {re.sub(r"\[\d+\]", "", key) for key in keys}
    sections = {re.sub(r"^(checks|column)\b.*", r"\1", key) for key in sections}
    page = (repository / "docs" / "prep.md").read_text().partition("A row is bad by one of these rules:")[2]
    assert sections == set(re.findall(r"^\| `([a-z._]+)` \|", page.partition("By default")[0], re.MULTILINE))
