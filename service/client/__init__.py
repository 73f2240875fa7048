"""Asking a running `foley serve` over HTTP.

May import `jobs`, `operations`, `foley` and the rooms below them, not `http`.
"""
