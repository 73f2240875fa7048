"""What people said of findings of the audit: `fixed`, or `not_a_fault`. Kept in the ledger by the file's content."""

from __future__ import annotations

import time
from collections.abc import Mapping

from service.jobs.ledger import Ledger
from service.search.audit import Mark


def read_marks(ledger: Ledger) -> Mapping[str, Mark]:
    """The mark of each asset that has one, by its id."""
    return {row["asset_id"]: row["mark"] for row in ledger.read("SELECT asset_id, mark FROM audit_marks")}


def set_mark(ledger: Ledger, asset_id: str, mark: Mark | None) -> None:
    """Mark an asset, in place of a mark of before; None takes the mark away."""
    with ledger.write() as connection:
        connection.execute("DELETE FROM audit_marks WHERE asset_id = ?", (asset_id,))
        if mark is not None:
            connection.execute("INSERT INTO audit_marks VALUES (?, ?, ?)", (asset_id, mark, time.time()))
