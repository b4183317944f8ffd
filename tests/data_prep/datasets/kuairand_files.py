"""KuaiRand in the layout in which it is published: a small made-up set, or the real feed logs as CSV files."""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

LOG_COLUMNS = (
    *("user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow", "is_comment"),
    *("is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time"),
    *("is_profile_enter", "is_rand", "tab"),
)
USER_COLUMNS = (
    *("user_id", "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author"),
    *("follow_user_num", "follow_user_num_range", "fans_user_num", "fans_user_num_range", "friend_user_num"),
    *("friend_user_num_range", "register_days", "register_days_range"),
    *(f"onehot_feat{i}" for i in range(18)),
)
VIDEO_COLUMNS = (
    *("video_id", "author_id", "video_type", "upload_dt", "upload_type", "visible_status", "video_duration"),
    *("server_width", "server_height", "music_id", "music_type", "tag"),
)
# Day of April (31 is 1 May) of the first and of the last row of each file.
LOGS = {
    "log_standard_4_08_to_4_21_pure.csv": (8, 21),
    "log_standard_4_22_to_5_08_pure.csv": (22, 38),
    "log_random_4_22_to_5_08_pure.csv": (22, 38),
}
CHINA = timezone(timedelta(hours=8))
USERS, VIDEOS = 40, 30
Row = dict[str, Any]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """A CSV file of the public kind: a header, commas, quotes where a cell holds one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def users() -> list[Row]:
    """Every third user has no `onehot_feat4` and `onehot_feat12` to `17`, as a few in the real files."""
    rows = []
    for i in range(USERS):
        row: Row = dict.fromkeys(USER_COLUMNS, 0) | {
            "user_id": i,
            "user_active_degree": ("full_active", "day_new")[i % 2],
        }
        row |= {f"{name}_user_num": i * 3 for name in ("follow", "fans", "friend")}
        row |= {f"{name}_user_num_range": "[10,100)" for name in ("follow", "fans", "friend")}
        row |= {"is_live_streamer": (-124, 1)[i % 2], "register_days": i, "register_days_range": "61-90"}
        row |= {f"onehot_feat{n}": "" if i % 3 == 0 else float(i % 2) for n in (4, *range(12, 18))}
        rows.append(row)
    return rows


def videos() -> list[Row]:
    """Video 0 has no duration and no tags, video 1 has three tags."""
    rows = []
    for i in range(VIDEOS):
        row: Row = {"video_id": i, "author_id": 100 + i // 2, "video_type": "NORMAL", "upload_dt": "2022-04-09"}
        row |= {"upload_type": "Web", "visible_status": 0.0, "video_duration": 1000.0 * i or "", "server_width": 720.0}
        row |= {"server_height": 1280.0, "music_id": 9 * i, "music_type": 9.0 if i % 5 else "", "tag": str(i % 4)}
        rows.append(row)
    rows[0]["tag"], rows[1]["tag"] = "", "39,7,12"
    return rows


def impressions(first: int, last: int, per_day: int, *, is_rand: int = 0) -> list[Row]:
    """`per_day` impressions on each day of April, the last of a day after 23:50 and so dated on the next one."""
    chance = random.Random(first)
    rows = []
    for day in range(first, last + 1):
        for i in range(per_day):
            shown = datetime(2022, 4, 1, tzinfo=CHINA) + timedelta(days=day - 1, seconds=i * 86_000 // (per_day - 1))
            noted = shown + timedelta(minutes=9)
            video = chance.randrange(VIDEOS)
            play = chance.choice((0, chance.randrange(40_000)))
            row: Row = dict.fromkeys(LOG_COLUMNS, 0) | {"user_id": chance.randrange(USERS), "video_id": video}
            row |= {"date": f"{noted:%Y%m%d}", "hourmin": noted.hour * 100, "time_ms": int(shown.timestamp() * 1000)}
            row |= {
                "play_time_ms": play,
                "duration_ms": 1000 * video,
                "is_rand": is_rand,
                "tab": chance.choice((0, 1, 1)),
            }
            row["is_click"] = int(play > 7000)
            row |= {f"is_{act}": int(chance.random() < 0.1) for act in ("like", "follow", "comment", "forward")}
            rows.append(row)
    return rows


def write_public(root: Path, per_day: int) -> list[Row]:
    """The public files, made up; the rows of the standard logs, file by file."""
    standard: list[Row] = []
    for name, (first, last) in LOGS.items():
        is_rand = int("random" in name)
        rows = impressions(first, last, per_day, is_rand=is_rand)
        write_csv(root / "data" / name, LOG_COLUMNS, rows)
        standard += [] if is_rand else rows
    write_csv(root / "data/user_features_pure.csv", USER_COLUMNS, users())
    write_csv(root / "data/video_features_basic_pure.csv", VIDEO_COLUMNS, videos())
    counts = [{"video_id": i, "counts": 5, "show_cnt": 9.5} for i in range(VIDEOS)]
    write_csv(root / "data/video_features_statistic_pure.csv", ("video_id", "counts", "show_cnt"), counts)
    return standard


def as_public(folder: Path, root: Path) -> None:
    """The real feed logs, given as Parquet, in the public layout."""
    rows = [row for file in sorted(folder.glob("log_standard_*.parquet")) for row in pq.read_table(file).to_pylist()]
    write_csv(root / "data/log_standard_4_22_to_5_08_pure.csv", LOG_COLUMNS, rows)
    for name in ("user_features_pure.csv", "video_features_basic_pure.csv"):
        (root / "data" / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
