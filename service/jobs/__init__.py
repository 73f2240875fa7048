"""Work asked for once and done whatever happens: ledger, lanes, documents. May import `foley` and below."""
