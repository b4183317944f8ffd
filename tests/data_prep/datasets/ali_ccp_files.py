"""Small files in Ali-CCP's format, with users who come again and clicks that can be learned."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_prep.sources.ali_ccp import COMMON, SPLITS

Entry = tuple[str, int, float]
USERS, ITEMS = 60, 40
SEVERAL = ("210", "508", "509", "702", "853")


class Impression(NamedTuple):
    """A line of a skeleton: what the user did, who it was, and its features."""

    click: int
    buy: int
    user: int
    entries: tuple[Entry, ...]


def feature_list(entries: Sequence[Entry]) -> str:
    """The last two cells of a line."""
    return f"{len(entries)}," + "\x01".join(f"{field}\x02{of}\x03{value}" for field, of, value in entries)


def users() -> list[list[Entry]]:
    """Common features: a user id, a profile with a gap, and a history that is longer than what the recipe keeps."""
    chance = random.Random(0)
    rows = []
    for user in range(USERS):
        row: list[Entry] = [("101", 5_000 + user, 1.0)]
        row += [
            (field, int(field) * 10 + user % 7, 1.0) for field in COMMON.single_fields[1:] if field != "124" or user % 4
        ]
        for field in COMMON.list_fields:
            row += [(field, chance.randrange(40), chance.randrange(1, 64) / 16) for _ in range(chance.randrange(60))]
        rows.append(row)
    return rows


def impressions(split: str, count: int) -> list[Impression]:
    """A click where item and user fit, a purchase after a third of them."""
    chance = random.Random(split)
    rows = []
    for _ in range(count):
        user, item = chance.randrange(USERS), chance.randrange(ITEMS)
        entries = [("205", 900 + item, 1.0), ("206", item % 5, 1.0), ("207", item % 9, 1.0), ("301", item % 3, 1.0)]
        entries += [(field, chance.randrange(9), 1.5) for field in SEVERAL for _ in range(chance.randrange(3))]
        click = int(chance.random() < (0.7 if (item + user) % 3 == 0 else 0.1))
        rows.append(Impression(click, int(click and chance.random() < 0.3), user, tuple(entries)))
    return rows


def key_of(split: str, user: int) -> str:
    """What joins the two kinds of files."""
    return f"{split[:2]}{user:014x}"


def write_ali_ccp(root: Path, count: int) -> dict[str, list[Impression]]:
    """The four files below `root`, in the folders in which they are published; the impressions of each split."""
    written = {}
    for split in SPLITS:
        folder = root / f"sample_{split}"
        folder.mkdir(parents=True)
        written[split] = impressions(split, count)
        common = [f"{key_of(split, user)},{feature_list(row)}" for user, row in enumerate(users())]
        log = [
            f"{number},{row.click},{row.buy},{key_of(split, row.user)},{feature_list(row.entries)}"
            for number, row in enumerate(written[split], 1)
        ]
        for kind, lines in (("common_features", common), ("sample_skeleton", log)):
            (folder / f"{kind}_{split}.csv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return written
