"""Encoder, index generation and calibration as one release: built, measured, switched.

May import `library` and the rooms below it.
"""
