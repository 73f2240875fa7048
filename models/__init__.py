"""What a model is and what it reads. Imports nothing of `service` or `training`."""
