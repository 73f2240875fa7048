"""The names of what ends a job: stable, for programs that read the ledger or ask over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from service.decoding import DecodeFailure
from service.encoder import EncoderFailure
from service.index.contract import IndexFailure, IndexFull, IndexUnavailable
from service.ledger import LedgerFailure, LedgerFull
from service.sync import SyncRefused

INTERNAL = "internal_error"
CODES: Mapping[type[Exception], str] = {
    SyncRefused: "sync_refused",
    IndexFull: "disk_full",
    IndexUnavailable: "index_unavailable",
    IndexFailure: "index_failed",
    EncoderFailure: "encoder_failed",
    DecodeFailure: "decoder_unavailable",
    LedgerFull: "disk_full",
    LedgerFailure: "ledger_failed",
    OSError: "not_readable",
}


def code_of(exc: Exception) -> str:
    """Name what ended a job.

    Args:
        exc: What was raised.

    Returns:
        The name of its nearest kind; `internal_error` for a fault of ours.
    """
    return next((CODES[kind] for kind in type(exc).__mro__ if kind in CODES), INTERNAL)
