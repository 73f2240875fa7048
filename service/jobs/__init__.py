"""Work asked for once and done whatever happens: ledger, runners, documents.

May import `foley` and the rooms below it, not `operations`.
"""
