"""The ledger's SQLite file: what is in it, who may write, and how its errors are named."""

from __future__ import annotations

import contextlib
import glob
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from service.system.failure import Failure
from service.system.files import make_private

SCHEMA_VERSION = 5
BUSY_SECONDS = 10.0  # another process may be in the middle of a commit

SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they were asked for
    job_id TEXT NOT NULL UNIQUE,
    bundle_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    request TEXT NOT NULL,                     -- JSON
    idempotency_key TEXT,
    created_at REAL NOT NULL,                  -- seconds since 1970, as all times here
    started_at REAL,
    ended_at REAL,
    is_scanned INTEGER NOT NULL DEFAULT 0,     -- every file of the job has its row
    is_retry INTEGER NOT NULL DEFAULT 0,       -- only rows that are pending are to be done
    wants_cancel INTEGER NOT NULL DEFAULT 0,
    report TEXT,                               -- JSON, once it has ended
    error_code TEXT,
    error TEXT,
    UNIQUE (bundle_id, idempotency_key)
);
CREATE TABLE files (
    job_id TEXT NOT NULL,
    path BLOB NOT NULL,                        -- bytes as the file system has them
    size_bytes INTEGER,
    modified_ns INTEGER,
    asset_id TEXT,
    outcome TEXT NOT NULL,
    code TEXT,
    reason TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    num_segments INTEGER NOT NULL DEFAULT 0,
    is_partial INTEGER NOT NULL DEFAULT 0,
    started_at REAL,
    ended_at REAL,
    PRIMARY KEY (job_id, path)
) WITHOUT ROWID;
CREATE INDEX files_by_outcome ON files (job_id, outcome, path);
CREATE TABLE faults (                          -- files that failed, until they change
    bundle_id TEXT NOT NULL,
    path BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    basis TEXT NOT NULL,                       -- what they were decoded with: limits and versions
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    is_quarantined INTEGER NOT NULL,
    PRIMARY KEY (bundle_id, path)
) WITHOUT ROWID;
CREATE TABLE identities (                      -- contents hashed before
    path BLOB PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    asset_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE mounts (                          -- where disks were mounted at the last run over what is on them
    path BLOB PRIMARY KEY
) WITHOUT ROWID;
"""


UPGRADES = {  # from each version to the next; of what was hashed before, only changes from now on are noticed
    1: [
        *(f"ALTER TABLE {table} ADD COLUMN stamp TEXT" for table in ("files", "faults", "identities")),
        "UPDATE identities SET stamp = '<' || (CAST(strftime('%s', 'now') AS INTEGER) * 1000000000)",
    ],
    # what people said of assets that are gone; JSON
    2: ["CREATE TABLE kept_metadata (asset_id TEXT NOT NULL, path BLOB, metadata TEXT NOT NULL)"],
    3: [  # what people collected; `items` is a JSON list, in their order
        "CREATE TABLE collections (collection_id TEXT PRIMARY KEY, name TEXT NOT NULL, created_at REAL NOT NULL, "
        "updated_at REAL NOT NULL, items TEXT NOT NULL)"
    ],
    # what people said of findings of the audit
    4: ["CREATE TABLE audit_marks (asset_id TEXT PRIMARY KEY, mark TEXT NOT NULL, marked_at REAL NOT NULL)"],
}


class LedgerFailure(Failure):
    """The ledger cannot be read or written."""

    code = "ledger_failed"
    is_public = False


class LedgerInUse(LedgerFailure):
    """Another process works on the jobs of this library."""

    code = "ledger_in_use"
    is_public = True


class LedgerDamaged(LedgerFailure):
    """The ledger's file is damaged; the message says what to do."""

    is_public = True

    def __init__(self, fault: object) -> None:
        super().__init__(
            f"the ledger of jobs cannot be used, it is damaged ({' '.join(str(fault).split())}): restore a backup, or "
            "move ledger.sqlite out of FOLEY_DATA and run `foley sync` on your folders"
        )


class LedgerFull(LedgerFailure):
    """The disk that holds the ledger is full."""

    code = "disk_full"
    is_public = True


def open_database(path: Path) -> sqlite3.Connection:
    """Open the file, or create it, for several threads that take turns; no transaction begins by itself."""
    with translate_errors():
        with contextlib.suppress(OSError):  # SQLite says it better
            path.touch(mode=0o600)  # the files that SQLite puts beside it get its mode
        for file in path.parent.glob(f"{glob.escape(path.name)}*"):
            make_private(file)
        connection = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        _prepare(connection, path)
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        version = 1
    for statement in (one for known, steps in UPGRADES.items() if known >= version for one in steps):
        connection.execute(statement)
    if version < SCHEMA_VERSION:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    connection.execute("COMMIT")
    if version > SCHEMA_VERSION:
        connection.close()
        raise LedgerFailure(
            f"{path} has schema version {version}; this Foley knows {SCHEMA_VERSION}: use a later one"
        )


def check_database(path: Path) -> None:
    """Read every page anew; raises `LedgerDamaged` at the first that is damaged."""
    with translate_errors(), contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise LedgerDamaged(found)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Turn SQLite's errors in the block into `LedgerFailure` or a subclass."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        name = getattr(exc, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise LedgerInUse(f"another process writes the ledger for more than {BUSY_SECONDS:g} s") from exc
        if name.startswith("SQLITE_FULL"):
            raise LedgerFull("the disk that holds the ledger is full") from exc
        raise LedgerFailure(f"the ledger cannot be used: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        if getattr(exc, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise LedgerDamaged(exc) from exc
        raise LedgerFailure(f"the ledger cannot be used: {exc}") from exc
