"""How a model learns. Imports `models`, never `service`."""
