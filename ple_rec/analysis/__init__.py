"""Analyses of training runs: one run (`analyze`), several seeds (`repeat`), variants (`compare`), fusion (`fuse`).

A run is one training with its directory. A fusion combines the predictions of all tasks to one ranking score.
"""
