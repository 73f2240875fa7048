"""For the operator: doctor, API keys, backup, restore, migration. May import `foley` and below."""
