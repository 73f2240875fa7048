"""A trained encoder pair as files, and its precisions. May import `models.media`; no torch."""
