"""Ten minutes of one GPU: `make gpu-smoke` finds out in this time what only a GPU can show.

`__main__` runs the stages that `stage` lists, in the order of their value, and writes their results to `page.md`.
`worker` has the process that runs them; each other module is the work of a stage or of a few.
"""
