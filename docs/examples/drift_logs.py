"""Write raw logs of users whose taste drifts to data/drift-raw, and the best metrics that a model of them can reach.

    python docs/examples/drift_logs.py [--users N] [--rows ROWS_PER_USER] [--seed N]

At any time a user likes one of 6 categories of videos. The taste lasts for a day on average; the next one is the
user's favourite category in 30 % of cases, and any of the 6 otherwise. So the id of a user says something about the
taste, and the latest clicks say more. A video is shown at random, and clicked with the probability

    sigmoid(quality of the video - 2 + 3 if the user likes its category now)

log.parquet       impressions of 8 days in the order of time, with the probabilities of a click by which three observers
                  would predict it. All of them know the rules above, the quality of each video and the favourite
                  category of each user.
                      p_taste      also knows the taste of the user at that time: the formula above
                      p_history    does not know the taste, but all earlier impressions and clicks of the user
                      p_id         knows neither the taste nor any impression
reachable.json    AUC and log loss of these probabilities on each of the last two days. A model that has no more
                  information than an observer is better than the observer only by chance.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]  # scipy has no stubs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RAW = Path("data/drift-raw")
DAYS, DAY_MS, FIRST_MS = 8, 86_400_000, 1_714_521_600_000  # 2024-05-01, 00:00 UTC
VIDEOS, CATEGORIES = 300, 6
FAVOURITE = 0.3  # Probability that a new taste is the favourite category; otherwise it is drawn among all categories.
LIFETIME = DAY_MS  # Mean time until a taste ends.


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-x)))


def simulate(users: int, rows: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Return the columns of the log, in the order of time."""
    rng = np.random.default_rng(seed)
    user, favourite = np.arange(users), rng.integers(0, CATEGORIES, users)
    category, quality = np.arange(VIDEOS) % CATEGORIES, 0.5 * rng.normal(size=VIDEOS)
    time = np.sort(rng.integers(0, DAYS * DAY_MS, (rows, users)), axis=0)
    new_taste = np.full((users, CATEGORIES), (1 - FAVOURITE) / CATEGORIES)  # Its probabilities.
    new_taste[user, favourite] += FAVOURITE

    def draw_taste() -> Ints:
        return np.where(rng.random(users) < FAVOURITE, favourite, rng.integers(0, CATEGORIES, users))

    # `belief` has the probabilities of the tastes, given all earlier impressions: the forward algorithm of a hidden
    # Markov model.
    taste, belief, before = draw_taste(), new_taste, np.zeros(users)
    blocks = []
    for now in time:  # Each row of `time` has one impression of every user.
        stays = np.exp((before - now) / LIFETIME)
        taste = np.where(rng.random(users) < stays, taste, draw_taste())
        belief = stays[:, None] * belief + (1 - stays[:, None]) * new_taste
        video = rng.integers(0, VIDEOS, users)
        video_category = category[video]
        liked, not_liked = sigmoid(quality[video] + 1), sigmoid(quality[video] - 2)
        p_taste = np.where(taste == video_category, liked, not_liked)
        p_history, p_id = (
            not_liked + probability[user, video_category] * (liked - not_liked) for probability in (belief, new_taste)
        )
        click = rng.random(users) < p_taste
        likelihood = np.where(np.arange(CATEGORIES) == video_category[:, None], liked[:, None], not_liked[:, None])
        belief = belief * np.where(click[:, None], likelihood, 1 - likelihood)
        belief /= belief.sum(axis=1, keepdims=True)
        before = now
        blocks.append((user, video, video_category, FIRST_MS + now, click.astype(np.int64), p_taste, p_history, p_id))
    names = ("user_id", "video_id", "category", "time_ms", "is_click", "p_taste", "p_history", "p_id")
    columns = {name: np.concatenate(parts) for name, parts in zip(names, zip(*blocks, strict=True), strict=True)}
    order = np.lexsort((columns["user_id"], columns["time_ms"]))
    return {name: values[order] for name, values in columns.items()}


def auc_and_loss(click: Ints, p: Floats) -> dict[str, float]:
    """Return AUC and log loss of probabilities."""
    positives, negatives = int(click.sum()), int((1 - click).sum())
    ranks = rankdata(p)[click == 1].sum() - positives * (positives + 1) / 2
    loss = -np.log(np.where(click == 1, p, 1 - p)).mean()
    return {"auc": float(ranks / (positives * negatives)), "log_loss": float(loss)}


def main() -> None:
    """Write the files, and print the best metrics of the last day."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--users", type=int, default=500)
    arguments.add_argument(
        "--rows",
        type=int,
        default=400,
        metavar="ROWS_PER_USER",
        help="impressions of each user, not of all; default 400",
    )
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    log = simulate(args.users, args.rows, args.seed)
    RAW.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(log), RAW / "log.parquet")
    day = (log["time_ms"] - FIRST_MS) // DAY_MS + 1
    observers = ("p_taste", "p_history", "p_id")
    reachable = {
        split: {name: auc_and_loss(log["is_click"][day == number], log[name][day == number]) for name in observers}
        for split, number in (("valid", DAYS - 1), ("test", DAYS))
    }
    (RAW / "reachable.json").write_text(json.dumps(reachable, indent=1) + "\n")
    print(f"{RAW}: {len(day):,} rows of {DAYS} days")
    for name, best in reachable["test"].items():
        print(f"best reachable on test by {name}: auc {best['auc']:.4f}, log loss {best['log_loss']:.4f}")


if __name__ == "__main__":
    main()
