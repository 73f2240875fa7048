"""What each `foley-train` command does. May import every room of `training`."""
