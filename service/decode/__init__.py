"""Media files into clips, in sandboxed processes. May import `system` only."""
