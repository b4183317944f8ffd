"""Plans of `ple-rec plan` for any hosts: placement of tables, time of a step, and changes to a run that does not fit.

options.py       cluster and options, checked before torch is loaded
plan_input.py    model of a configuration, without memory and without data
workload.py      ids, values and FLOPs of a sample on a rank
estimate.py      step time, samples a second, time of an epoch, and the part that bounds them
roofline.py      least time of a step on GPUs
suggestions.py   changes that make a plan fit, each tried
smallest.py      fewest hosts on which a run fits, or is fast enough
compare.py       differences between two plans
text.py          a plan on a terminal
run.py           plans for the verb, and their files
"""
