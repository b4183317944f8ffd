"""Inference with a trained run: export, batch prediction, and the exported model that a server answers with."""
