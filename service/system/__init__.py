"""What every room stands on: settings, failures, log, timing, files, child processes. Imports no other room."""
