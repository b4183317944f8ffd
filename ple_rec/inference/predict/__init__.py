"""`ple-rec predict`: a trained run's predictions of every row of an input, as Parquet.

inputs.py         what is read: sections of chunks of rows, in order
dataset_input.py  ... of a dataset directory       raw_input.py  ... of raw logs
batches.py        chunks -> batches of one size, which do not depend on where chunks or parts are cut
counts.py         ids that have no row of their own, values out of bounds
score.py          a batch's logits -> the columns of the output
output.py         the directory of predictions        own_files.py  the files in it that are ours
predict.py        all of it, in a loop
"""
