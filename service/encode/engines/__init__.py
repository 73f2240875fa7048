"""The inference engines, a file each. May import `system` only."""
