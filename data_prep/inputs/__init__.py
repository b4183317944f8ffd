"""Raw logs as the inputs of a model, for prediction."""
