"""Serving a model to many clients at once: requests, the engine that batches them, and the HTTP interface."""
