"""Training on several ranks: process group, planner and sharding of embedding tables, optimizers, watchdog."""
