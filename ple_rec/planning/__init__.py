"""`ple-rec plan`: where tables go on hosts that are not there yet, what a step costs, what to do where it does not fit.

options.py       the cluster and the options, checked before torch is loaded
plan_input.py    the model of a configuration, without memory and without data
workload.py      ids, values and FLOPs of a sample on a rank
estimate.py      step time, samples a second, time of an epoch, and what bounds them
roofline.py      the least time of a step on GPUs
suggestions.py   changes that make a plan fit, each tried
smallest.py      the fewest hosts that fit, or that are fast enough
compare.py       how two plans differ
text.py          a plan on a terminal
run.py           the verb
"""
