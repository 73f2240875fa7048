"""Files into the index: scan, identify, pipeline, sync, report; metadata. May import `search` and below."""
