"""The index contract, and what its implementations share. May import `system` only."""
