"""The synthetic corpus: scenes with picture and sound that belong together. Imports `models.media` only, no torch."""
