"""What makes dense layers fast on a CPU. `MultiTaskModel` is the only door: the layers know nothing of it."""
