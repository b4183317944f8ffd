"""AUC and GAUC of the runs of `ple-rec repeat`, with the interval within which chance alone moves the AUC.

    python docs/examples/auc_intervals.py runs/repeat/kuairand-ple

The interval is Hanley and McNeil's (1982) at 95 % for the mean AUC over the seeds. More seeds do not make it narrower,
since all read the same test rows. It assumes independent rows. Impressions of one user depend on each other, so the
true interval is wider.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import mean, stdev


def hanley_mcneil(auc: float, positives: int, negatives: int) -> float:
    """Return half the width of the 95 % interval of an AUC."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return 1.96 * math.sqrt(spread / (positives * negatives))


def main(folder: Path) -> None:
    """Print a line for each task."""
    files = sorted(folder.glob("seed-*/metrics.json"))
    runs = [json.loads(file.read_text())["test"]["tasks"] for file in files]
    print(f"{folder.name}, {len(runs)} seeds, test split")
    heads = f"{'AUC':>6} {'+- seeds':>9}  {'95 % by chance':>14}  {'GAUC':>6}{'users':>7}"
    print(f"{'task':12}{'positives':>10}{'of':>8}  {heads}")
    for task, first in runs[0].items():
        if "auc" not in first:
            print(f"{task:12}{'':>10}{first['samples']:>8,}  MSE {mean(run[task]['mse'] for run in runs):.4f}")
            continue
        of_seeds = [run[task]["auc"] for run in runs]
        auc, deviation = mean(of_seeds), stdev(of_seeds) if len(runs) > 1 else math.nan
        half = hanley_mcneil(auc, first["positives"], first["samples"] - first["positives"])
        print(
            f"{task:12}{first['positives']:>10,}{first['samples']:>8,}  {auc:.4f} {deviation:>9.4f}  "
            f"{max(auc - half, 0):>7.3f} to {min(auc + half, 1):.3f}  {mean(run[task]['gauc'] for run in runs):.4f}"
            f"{first['gauc_groups']:>7,}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
