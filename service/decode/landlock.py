"""Landlock: a process gives up, for good, opening files and reaching the network (Linux 5.13 and newer).

    restrict([Path("/usr/lib")])   # from now on this process reads what is in /usr/lib, and opens nothing else

What is open already stays open. Processes and threads that start later inherit it; threads that run already
do not, so call it before there are any. https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import stat
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

# The numbers are the same on every processor but Alpha.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION = 1
PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many kinds of access to files a kernel knows, by the first version with that number."""
TCP_RIGHTS = 0b11  # bind and connect, from version 4
SCOPES = 0b11  # abstract Unix sockets and signals stay within the process, from version 6
FIRST_WITH_TCP, FIRST_WITH_SCOPES = 4, 6
PR_SET_NO_NEW_PRIVS = 38


@functools.cache
def landlock_version() -> int:
    """Version of Landlock in the running kernel; 0 if it has none, or it is switched off."""
    if sys.platform != "linux":
        return 0
    version: int = _libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION)
    return max(0, version)


def describe_landlock() -> str | None:
    """What the running kernel cannot keep a decode worker from; None if it can keep it from everything."""
    version = landlock_version()
    if version == 0:
        return (
            "this kernel has no Landlock, or it is switched off: a fault in the decoder could be used to read files "
            "and reach the network (Linux 5.13 or newer, with landlock in the list of security modules, prevents it)"
        )
    if version < FIRST_WITH_TCP:
        return f"Landlock version {version} keeps decode workers from files, but not from the network (Linux 6.7)"
    return None


def restrict(readable: Iterable[Path]) -> None:
    """From now on only read the given files and folders (missing ones are skipped), and open no TCP connection.

    Without Landlock nothing happens. Raises `OSError` if the kernel has Landlock and refuses.
    """
    version = landlock_version()
    if version == 0:
        return
    libc = _libc()
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    attributes = _ruleset_attributes(version)
    created = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    ruleset = _check(created, "create_ruleset")
    try:
        for path in readable:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _allow_reading(libc, ruleset, path)
        _check(libc.syscall(RESTRICT_SELF, ruleset, 0), "restrict_self")
    finally:
        os.close(ruleset)


def _ruleset_attributes(version: int) -> bytes:
    num_rights = max(number for first, number in FILE_RIGHTS.items() if first <= version)
    fields = [(1 << num_rights) - 1]
    if version >= FIRST_WITH_TCP:
        fields.append(TCP_RIGHTS)
    if version >= FIRST_WITH_SCOPES:
        fields.append(SCOPES)
    return struct.pack(f"={len(fields)}Q", *fields)


def _allow_reading(libc: ctypes.CDLL, ruleset: int, path: Path) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rule = struct.pack("=Qi", READ_FILE | READ_DIR if is_folder else READ_FILE, descriptor)
        _check(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0), "add_rule")
    finally:
        os.close(descriptor)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock {call}: {os.strerror(number)}")
    return result
