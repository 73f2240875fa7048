"""Whether a request may come from a page of another site, open in a browser on this machine or network."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from service.system.failure import Failure


class Refused(Failure):
    """The request comes from where it must not. Subclasses say which."""

    code = "refused"


class HostNotAllowed(Refused):
    """The `Host` header names a machine that is not this one."""

    code = "host_not_allowed"


class CrossOrigin(Refused):
    """A page of another site asks for something that changes or computes."""

    code = "cross_origin"


def check_host(host: str | None, allowed: Collection[str]) -> None:
    """Raise `HostNotAllowed` if the `Host` header is none of our names: somebody made that name point here.

    Loopback addresses are allowed, and requests without the header, which no browser sends.
    """
    if host is None:
        return
    name = host_name(host)
    if name not in allowed and not _is_loopback(name):
        raise HostNotAllowed(f"this service does not answer for host {host[:100]!r}: see FOLEY_ALLOWED_HOSTS")


def check_origin(headers: Headers, allowed: Collection[str]) -> None:
    """Raise `CrossOrigin` for a page of another site that is not `allowed`; only browsers send these headers."""
    page = headers.get("origin")
    if page is None:
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise CrossOrigin("pages of other sites may not call this")
        return
    place = _place_of(page)
    if not place or (place != headers.get("host", "").lower() and host_name(place) not in allowed):
        raise CrossOrigin(f"a page of {page[:100]!r} may not call this: see FOLEY_ALLOWED_HOSTS")


def check_reader(headers: Headers) -> None:
    """Raise `CrossOrigin` if the browser says that it reads for a page of another site, or follows a link on one."""
    if headers.get("sec-fetch-site") == "cross-site":
        raise CrossOrigin("pages of other sites may not read this")


def _place_of(page: str) -> str:
    """Host and port in an `Origin`; empty if it names none."""
    if not page.startswith(("http://", "https://")):
        return ""
    try:
        return urlsplit(page).netloc.lower()
    except ValueError:  # `http://[::1`
        return ""


def host_name(host: str) -> str:
    """A host without its port, in lower case: `[::1]:8000` → `::1`, `Example.org.` → `example.org`."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
