"""Where the time of a step goes: `ple-rec train --profile`.

The loop marks the parts of a step through `Regions`, which is nothing but a function call as long as no `StepProfile`
listens.
"""
