"""The HTTP server of an exported model: admission, micro-batches, reload, metrics.

A request passes `admission` (token, bounds, body), `app` (routes) and `batching` (the model).
"""
