"""Any media file into clips. Imports the standard library, NumPy and PyAV; no other room, no torch."""
