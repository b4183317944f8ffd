"""Faster computation of the dense layers on a CPU. `MultiTaskModel` selects it; `ple_rec.modules` does not know it."""
