"""`ple-rec predict`: a trained run's predictions of every row of an input, as Parquet.

inputs.py     chunks of rows of a dataset directory or of raw logs, in order
batches.py    chunks to batches of one size, which do not depend on where chunks or parts are cut
counts.py     ids that have no row of their own, values out of bounds
score.py      logits of a batch to the columns of the output
output.py     the directory of predictions, and the files in it that are ours
predict.py    the loop over batches
text.py       the summary at the end
"""
