"""The index on a Qdrant server. May import the files of `service.index`, never `embedded`."""
