"""Profiler of training steps: `ple-rec train --profile`.

The loop marks the regions of a step through `Regions`. Without a `StepProfile`, a mark costs a function call.
"""
