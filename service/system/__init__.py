"""What every room stands on: settings, failures, log, stage times, durable files, child processes.

Imports no other room.
"""
