"""Process group, planner, sharding, optimizers. Takes any nn.Module."""
