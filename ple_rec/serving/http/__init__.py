"""HTTP server of an exported model: admission, micro-batches, reload, metrics.

A request passes `access` (Host, token), `app` (routes), `admission` (limits, body) and `batching` (the model).
"""
