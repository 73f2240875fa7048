"""What the operator runs: doctor, API keys, backup, restore, migration.

May import `foley` and the rooms below it, not `jobs`.
"""
