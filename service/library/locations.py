"""Where a file of the library is: a path of this machine, or the URL of an object in a storage.

locate("/media/rain.wav")            # Path
locate("s3://archive/rain.wav")      # ObjectPath
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from service.system.failure import Failure
from service.system.paths import make_absolute

SCHEMES = ("s3", "gs", "https", "http")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)", re.DOTALL)


class InvalidLocation(Failure):
    """A URL that names no storage, or holds a secret; the message never repeats what may be one."""

    code = "invalid_location"


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or all below a prefix; `url` is as the storage writes it, without any encoding of its own."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        """How it is reached: `s3`, `gs`, `https` or `http`."""
        return self.url.partition(":")[0]

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The name's ending, with its dot."""
        return PurePosixPath(self.name).suffix


Location = Path | ObjectPath


def is_url(text: str) -> bool:
    """Whether a text names an object and no file; also one of a scheme that is not known here."""
    return _URL.match(text) is not None


def locate(text: str) -> Location:
    """The place that a text names, absolute; raises `InvalidLocation`."""
    found = _URL.match(text)
    if found is None:
        return make_absolute(Path(text))
    scheme, host, rest = found[1].lower(), found[2], found[3]
    if scheme not in SCHEMES:
        raise InvalidLocation(
            f"media is read from {', '.join(f'{s}://' for s in SCHEMES)}, not from {scheme[:20]}://"
        )
    if "@" in host or (scheme.startswith("http") and re.search("[?#]", host + rest)):
        raise InvalidLocation(
            f"a {scheme}:// address must hold no name, password, signature or other parameter: credentials come from "
            "the storage's own configuration"
        )
    if not host or any(ord(letter) < 32 for letter in rest):
        raise InvalidLocation(f"a {scheme}:// address must name a {'host' if 'http' in scheme else 'bucket'}")
    return ObjectPath(f"{scheme}://{host}{rest.rstrip('/')}")
