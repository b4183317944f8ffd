"""Statistics of a dataset that do not depend on the order of rows, the number of threads or the engine, and their page.

The engine counts, adds integers and finds least and greatest values; all else is an exactly rounded sum over a few
counts. No figure is weighted. `stats.json` holds

    version                    2
    rows.<split>
    days                       [{day, rows: {split: n}, tasks: {task: {samples, mean, positives}}}], of rows with a day
    columns.<column>.<split>   dense:  rows nulls min max mean std log_mean log_std quantiles, and `bits`: values are
                                       rounded to so many significant bits, off by some 2^-bits of themselves, but
                                       for min, max, first and last quantile; null where they are exact
                               sparse: rows oov (look-ups of row 0) oov_rate (of look-ups) hit (distinct rows), in
                                       train top: [[row, count, share]], the 10 most frequent
                               bags:   also ids (in all rows), mean_length, empty (rows)
    tasks.<task>.<split>       samples (the task's sample space) mean, positives of a binary task, std and max of the
                               label of a regression, and
                               outside: {rows, positives}: rows outside the space, those with a label above 0
    correlation.<split>        [{a, b, samples, r, fewest}]: Pearson's r of the labels of every two tasks on the rows in
                               both spaces; `fewest`: samples of the rarest class
    slices                     [{column, values, shift}] of the train split; of more than 4 M rows every second, third
                               ... row of each part
      values                   [{value (a row of the column's table), samples, means: {task: mean}, correlation}]
      shift                    [{a, b, shift, interval, low, high}]: greatest less least r over the values with enough
                               samples (200 in both spaces, 20 of each class), its 95 % interval, and where they are
    drift.<column>             from train to valid and test together: psi, chance (what psi is on average without
                               drift), dense: ks, sparse: oov (share of row 0 in valid and test)
    values.<table>.<row>       raw value, of the rows above
    dropped                    [{split, rows, reason}]
    overflow.<table>           of tables with more values of train than rows: values (that have none of their own),
                               limit (values that have one), handling: "row 0", or "hashed" into rows kept for that
    source                     [{table, file, rows, bytes, ...}]

Where the split deals out whole groups of rows, `chance` counts groups, and a key `groups` more says which: `by` (the
expression), `columns` (those that tell the group, whose psi is null), `train` and `later` (how many groups of equal
size scatter like those of train, and of valid and test).

A figure of no value at all (an empty split, a column of nulls, a label that does not vary) is null. Where no pipeline
read raw files (`write_tables`, synthetic data), `dropped`, `overflow` and `source` are empty.
"""

from data_prep.stats.compute import STATS_VERSION, compute
from data_prep.stats.dense import dense_stats, rate, task_stats
from data_prep.stats.page import write_page

__all__ = ["STATS_VERSION", "compute", "dense_stats", "rate", "task_stats", "write_page"]
