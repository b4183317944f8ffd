"""The HTTP server of an exported model: admission, micro-batches by one thread, reload, metrics.

A request passes `connection` (heads, idle time), `admission` (token, bound, body), `app` (routes) and `batching` (the
model).
"""
