"""Write raw logs of a made-up feed to data/feed-raw: days 1 to 8, or FIRST to LAST of `feed_logs.py FIRST LAST`.

A day is a number from 1 to 31; 9 is 2024-05-09.

With --come-and-go the users and videos change from day to day, as those of a real feed do: every day 3 % of the users
leave for good and as many new ones arrive, a third of the users stay away every other week and then return, and a video
is shown for 5 days. --users, --rows and --videos are sizes: users at a time, impressions and new videos of a day.

log/day=2024-05-01/part-0.parquet    impressions, a folder for each day
users.parquet                        one row for each user
videos/2024-05-01.parquet            every video that is known on the day, with its plays before the day began
content.parquet                      a vector of 8 numbers for each video, also for those of later days
"""

import argparse
import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("first", metavar="FIRST", type=int, nargs="?", default=1)
arguments.add_argument("last", metavar="LAST", type=int, nargs="?", default=8)
arguments.add_argument("--come-and-go", action="store_true")
arguments.add_argument("--users", type=int, default=400)
arguments.add_argument("--rows", type=int, default=2_000)
arguments.add_argument("--videos", type=int, default=40)
args = arguments.parse_args()

FIRST_DAY, DAY_MS, DAYS = date(2024, 5, 1), 86_400_000, 31
if not 1 <= args.first <= args.last <= DAYS:
    arguments.error(f"got days {args.first} to {args.last}; days are 1 to {DAYS}, and LAST is not before FIRST")
ROWS, NEW_VIDEOS = args.rows, args.videos
SHOWN_DAYS = 5 if args.come_and_go else DAYS
LEAVE = 0.03 if args.come_and_go else 0.0  # share of the users that leave and arrive on a day
NEW_USERS = int(LEAVE * args.users)
USERS = args.users + NEW_USERS * (DAYS - 1)
RAW = Path("data/feed-raw")

rng = np.random.default_rng(0)
taste, age = rng.normal(size=(USERS, 2)), rng.integers(0, 6, USERS)
style, quality = rng.normal(size=(NEW_VIDEOS * DAYS, 2)), rng.normal(size=NEW_VIDEOS * DAYS)
length_ms = rng.gamma(2, 8_000, NEW_VIDEOS * DAYS).astype(int) + 2_000
plays = np.zeros(NEW_VIDEOS * DAYS, int)
price = [Decimal(int(cents)) / 100 for cents in rng.integers(0, 500, NEW_VIDEOS * DAYS)]
clicked: list[list[str]] = [[] for _ in range(USERS)]

# These draws have a generator of their own, so that all other values are the same without --come-and-go.
come_and_go = np.random.default_rng(2)
first_day = np.repeat(np.arange(1, DAYS + 1), [args.users, *[NEW_USERS] * (DAYS - 1)])
last_day = first_day + come_and_go.geometric(LEAVE, USERS) if args.come_and_go else first_day + DAYS
pauses, week = args.come_and_go & (come_and_go.random(USERS) < 1 / 3), come_and_go.integers(0, 14, USERS)
by_activity = come_and_go.permutation(USERS) if args.come_and_go else np.arange(USERS)


def users_of(day: int) -> np.ndarray:
    """Return the users of a day, most active first."""
    present = (first_day <= day) & (day <= last_day) & ~(pauses & ((day + week) % 14 < 7))
    active: np.ndarray = by_activity[present[by_activity]]
    return active


def impressions(day: int) -> pa.Table:
    """Return the rows of a day in the order of time, and remember the clicks of its users. The first day is 1."""
    rng = np.random.default_rng(day)
    users = users_of(day)
    user = users[(len(users) * rng.random(ROWS) ** 2).astype(int)]
    # Most impressions are of new videos.
    candidates = NEW_VIDEOS * min(day, SHOWN_DAYS)
    video = NEW_VIDEOS * day - 1 - (candidates * rng.random(ROWS) ** 3).astype(int)
    interest = quality[video] + (taste[user] * style[video]).sum(1)
    # These videos play by themselves; the others wait for a click.
    auto = rng.random(ROWS) < 0.6
    watched = np.clip(0.45 + 0.2 * interest + 0.2 * rng.normal(size=ROWS), 0.02, 1.5)
    chosen = rng.random(ROWS) < 1 / (1 + np.exp(0.5 - 1.5 * quality[video]))
    click = np.where(auto, watched > 0.5, chosen)
    share = click & (rng.random(ROWS) < 0.25 / (1 + np.exp(1 - interest)))
    history = []
    for u, v, c in zip(user, video, click, strict=True):
        history.append(clicked[u][-10:])
        if c:
            clicked[u].append(f"v{v}")
    midnight = (FIRST_DAY - date(1970, 1, 1)).days * DAY_MS + (day - 1) * DAY_MS
    play_ms = np.where(auto | click, watched * length_ms[video], 0).astype(int)
    plays[:] += np.bincount(video[play_ms > 0], minlength=len(plays))
    return pa.table(
        {
            "user_id": user * 1_000 + 17,
            "video_id": [f"v{v}" for v in video],
            "time_ms": midnight + np.sort(rng.integers(0, DAY_MS, ROWS)),
            "tab": np.where(auto, "auto", "click"),
            "history": pa.array(history, pa.list_(pa.string())),
            # The list has a weight for each video of the history.
            "recency": pa.array([[0.9 ** (len(h) - i) for i in range(len(h))] for h in history]),
            "network_mbps": pa.array(rng.gamma(2, 10, ROWS), mask=rng.random(ROWS) < 0.1),
            # A duration of 0 stands for an unknown one.
            "duration_ms": np.where(rng.random(ROWS) < 0.03, 0, length_ms[video]),
            "play_time_ms": play_ms,
            "is_click": click.astype(int),
            "is_share": share.astype(int),
            "context": [
                json.dumps({"net": {"type": kind, "mbps": round(speed, 1)}, "app": "3.2"})
                for kind, speed in zip(rng.choice(["wifi", "cell"], ROWS), rng.gamma(2, 10, ROWS), strict=True)
            ],
        }
    )


def main(first: int, last: int) -> None:
    """Simulate the days up to `last`, and write those from `first` on."""
    for name in ("log", "videos"):
        (RAW / name).mkdir(parents=True, exist_ok=True)
    bands = ["under 18", "18 to 24", "25 to 34", "35 to 44", "45 to 59", "60 and more"]
    users = {"user_id": np.arange(USERS) * 1_000 + 17, "age": [bands[i] for i in age]}
    pq.write_table(pa.table(users), RAW / "users.parquet")
    # A model of the content would compute these from pictures and texts; here they are the style behind noise.
    noise = np.random.default_rng(1).normal(size=(len(style), 6))
    vectors = np.concatenate([style, noise], axis=1).astype(np.float32)
    content = {"video_id": [f"v{v}" for v in range(len(style))], "embedding": list(vectors)}
    pq.write_table(pa.table(content), RAW / "content.parquet")
    for day in range(1, last + 1):
        date_of_day, count = FIRST_DAY + timedelta(day - 1), NEW_VIDEOS * day
        columns = {
            "video_id": [f"v{v}" for v in range(count)],
            "day": [date_of_day] * count,
            "plays": plays[:count],
            "uploaded": [FIRST_DAY + timedelta(v // NEW_VIDEOS) for v in range(count)],
            "price": pa.array(price[:count], pa.decimal128(8, 2)),
        }
        videos, log = pa.table(columns), impressions(day)
        if day >= first:
            folder = RAW / "log" / f"day={date_of_day}"
            folder.mkdir(exist_ok=True)
            pq.write_table(log, folder / "part-0.parquet")
            pq.write_table(videos, RAW / "videos" / f"{date_of_day}.parquet")
    print(f"{RAW}: {ROWS * (last - first + 1):,} rows of {last - first + 1} day(s)")


main(args.first, args.last)
