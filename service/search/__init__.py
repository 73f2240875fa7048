"""Query to ranked, calibrated results; audit. May import `encode`, `decode`, `index` and `system`."""
