"""For whoever runs the service: doctor, API keys, backup, restore, migration. May import `foley` and below."""
