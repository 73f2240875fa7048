"""The `foley …` commands: each parses, calls one function and prints. May import every room but `service.cli`."""
