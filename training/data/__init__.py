"""Listed files into segments, segments into batches; shards. May import `corpus`."""
