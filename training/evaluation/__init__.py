"""Retrieval and probes. May import `checkpoint`, `data` and `corpus`."""
