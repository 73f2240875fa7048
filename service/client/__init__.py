"""Asking a running `foley serve` over HTTP. May import `jobs`, `operations` and below, not `http`."""
