"""The index in a process of its own, on Qdrant Edge. May import the files of `service.index`, never `qdrant`."""
