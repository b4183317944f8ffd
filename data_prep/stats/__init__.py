"""Statistics of a dataset (`stats.json`) and their page (`stats.html`).

The statistics do not depend on the order of rows, on threads or on the engine: the engine only counts, adds integers
and finds least and greatest values, and all other figures are exactly rounded sums over a few counts. No figure is
weighted. `stats.json` has these keys:

    version                    2
    rows.<split>               number of rows
    days                       [{day, rows: {split: n}, tasks: {task: {samples, mean, positives}}}], without the rows
                               that have no time
    columns.<column>.<split>   dense:  rows nulls min max mean std, log_mean log_std (of sign(x) log(1 + |x|)),
                                       quantiles (0, 1/1000 ... 1), and `bits`: the
                                       significant bits to which values are rounded (a relative error of about 2^-bits;
                                       min, max, first and last quantile are exact), null if all values are exact
                               sparse: rows oov (look-ups of row 0) oov_rate (of look-ups) hit (distinct rows), in
                                       train top: [[row, count, share]], the 10 most frequent
                               bags:   also ids (in all rows), mean_length, empty (rows)
                               vectors: rows missing; in train, with the normaliser "standard": mean, std: lists by
                                       component, of the vectors of train or, for a frozen table, of its rows
                               histories: rows events (of the histories of all rows) mean_length empty (rows)
    tasks.<task>.<split>       samples (rows in the task's sample space, which have its label), mean label, positives of
                               a binary task, std and max of the label of a regression, and
                               outside: {rows, positives}: rows outside the space, and those with a label above 0
    correlation.<split>        [{a, b, samples, r, fewest}]: Pearson's r of the labels of every two tasks on the rows in
                               both spaces; `fewest`: samples of the rarest class
    slices                     [{column, values, shift}] of the train split. For more than 4 M rows, only every second,
                               third ... row of each part is used.
      values                   [{value (of a sparse column: a row of its table), samples, means: {task: mean},
                               correlation}]
      shift                    [{a, b, shift, interval, low, high}]: greatest less least r over the values with enough
                               samples (200 in both spaces, 20 of each class), its 95 % interval, and the values with
                               the least and the greatest r
    drift.<column>             from train to valid and test together: psi, chance (the mean of psi without drift),
                               dense: ks, sparse: oov (share of row 0 in valid and test)
    values.<table>.<row>       raw value, or bounds of the bucket, of each row above
    dropped                    [{split, rows, reason}]: numbers of rows that were left out
    overflow.<table>           for tables with more values in train than rows: values (without a row of their own),
                               limit (values with a row of their own), handling: "row 0", or "hashed" into rows
                               reserved for that
    source                     [{table, file, rows, bytes, ...}] of each raw file

If the split assigns whole groups of rows, `chance` counts groups, and there is a key `groups`: `by` (the expression),
`columns` (columns that determine the group, whose psi is null), `train` and `later` (numbers of groups of equal size
that would vary like those of train, and of valid and test).

If expressions read JSON, there is a key `json`: [{text, rows, nulls, not_json}]. Each entry is an expression that is
read as JSON, mostly a column, with the numbers of all rows of the log, of those in which it is null, and of those in
which it is not JSON.

If a day was appended and tables have `admit` or `expire`, there is a key `table_rows`: {table: {in_use, free, assigned,
freed}}, the numbers of rows for values that are in use and free after the day, and of rows that were assigned and freed
on the day.

A figure without a value (an empty split, a column of nulls, a constant label) is null. `dropped`, `overflow` and
`source` are empty if no pipeline read raw files (`write_tables`, synthetic data).
"""

from data_prep.stats.compute import STATS_VERSION, compute
from data_prep.stats.dense import dense_stats, rate, task_stats
from data_prep.stats.page import write_page

__all__ = ["STATS_VERSION", "compute", "dense_stats", "rate", "task_stats", "write_page"]
