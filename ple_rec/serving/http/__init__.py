"""HTTP server of an exported model: admission, micro-batches, reload, metrics.

A request passes the modules `access` (Host and token), `app` (routes), `admission` (limits; the body is read) and
`batching` (the model answers). `reload` replaces the model by a new version.
"""
