"""`ple-rec predict`: predictions of a trained run for every row of an input, as Parquet.

inputs.py     chunks of rows of a dataset directory or of raw logs, in order
batches.py    chunks to batches of one size, independent of the bounds of chunks and parts
counts.py     counts of unknown and missing ids
score.py      logits of a batch to the columns of the output
output.py     directory of predictions, its parts and notes
predict.py    loop over batches
text.py       summary at the end
"""
