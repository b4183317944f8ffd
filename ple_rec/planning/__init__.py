"""Plans of `ple-rec plan` for any hosts: placement of tables, time of a step, and changes to a run that does not fit.

options.py       cluster and output file from command line options, checked before torch is loaded
plan_input.py    one plan, and its inputs: dataset description and a model without memory
workload.py      ids, values and FLOPs of a sample
estimate.py      step time, samples a second, time of an epoch, and the part of the step that bounds them
calibrate.py     figures of hardware from measurements
roofline.py      least time of a step on GPUs
suggestions.py   changes that make a run fit its hosts, each tried
smallest.py      fewest hosts on which a run fits, or is fast enough
compare.py       differences between two plans
text.py          a plan on a terminal
run.py           plans that `ple-rec plan` and `ple_rec.plan` call for, and their files
"""
