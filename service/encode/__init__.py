"""Clips into tracks: encoder, queue, spool. May import `system` only."""
