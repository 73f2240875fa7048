"""The HTTP face. May import `jobs`, `operations`, `foley` and rooms below, not `client` or `commands`."""
