"""The HTTP server of an exported model: admission, micro-batches, reload, metrics.

A request passes `access` (Host, token), `app` (routes), `admission` (bounds, body) and `batching` (the model).
"""
