"""TG-DP in torch: layers, front end, published weights, export. May import `models.bundle` and `models.media`."""
