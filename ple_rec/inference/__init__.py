"""From a trained run to answers: export, batch prediction, the model that a server holds, and the server."""
