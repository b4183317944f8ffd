"""Profiler of training steps, for `ple-rec train --profile`.

The training loop marks the regions of a step, for example "data wait" or "dense forward", through `Regions`. Without a
`StepProfile`, each mark only costs a function call.
"""
