"""Addresses that are safe to print."""

from __future__ import annotations

import re

START = re.compile(r"([A-Za-z][\w+.-]*:)?//")
HOST = re.compile(r"([\w.-]*|\[[\w.:%]+\])(:\d*)?")
"""An authority (RFC 3986, section 3.2) that has no user: a name or IPv6 address, and a port."""
SECRET = re.compile(r"(?i)([?&][^=&#]*(?:passw|pwd|token|secret)[^=&#]*=)[^&#]*")


def without_credentials(address: str) -> str:
    """Return an address without the user, password and secret parameters that it carries.

    No part of a password is shown, even if it holds `/`, `?`, `#` or `@` unescaped: unless the
    text up to the first of `/?#` is a host, everything up to the last `@` goes, which may be part
    of a path. (A password of digits up to a `/` makes its user a host, for every program.) Paths
    and addresses without credentials come back unchanged.
    """
    start = START.match(address)
    if start is None:
        return address
    rest = address[start.end() :]
    if not HOST.fullmatch(re.split("[/?#]", rest, maxsplit=1)[0]):
        rest = rest.rpartition("@")[2]
    return start.group() + SECRET.sub(r"\1***", rest)
