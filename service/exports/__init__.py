"""What people collected, as files that editors and sound programs read. May import `system` only."""
