"""Process group, planner, sharding and optimizers for any `nn.Module`."""
