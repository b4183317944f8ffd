"""`ple-rec predict`: predictions of a trained run for every row of an input, as Parquet.

inputs.py     reads the rows of a dataset directory or of raw logs, in chunks
batches.py    makes batches of one size from chunks
counts.py     counts unknown and missing ids
score.py      turns the logits of a batch into the columns of the output
output.py     directory of predictions and its Parquet files (parts)
predict.py    loop over batches
text.py       text that is printed at the end
"""
