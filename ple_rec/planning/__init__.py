"""`ple-rec plan`: where tables go on hosts that are not there yet, what a step costs, what to do where it does not fit.

subject.py    the model of a configuration, without memory and without data
estimate.py   a plan's step time, samples a second, time of an epoch, and what bounds it
ways_out.py   a plan that does not fit: changes that make it fit, each tried
smallest.py   the fewest hosts that fit, or that are fast enough
compare.py    how two plans differ
text.py       a plan on a terminal, page/ as HTML
run.py        the verb
"""
