"""Where files of the survey are served, and which addresses a download may touch.

A mirror is an address in which ``{path}`` (``1405/053/rings.v3...fits``) or ``{file}`` (its last
part) stands for the file. Only hosts of mirrors are ever spoken to: a redirection to another host,
another port or another scheme is refused, and so is an address of a private network unless the
person who asks has named that host.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from idfzarr.errors import UsageError
from idfzarr.ps1.names import parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from idfzarr.ps1.sky_keys import SkyArray

__all__ = ["DEFAULT_MIRRORS", "AddressRules", "Refused", "address_of", "file_name", "file_path"]

DEFAULT_MIRRORS: tuple[str, ...] = (
    "https://ps1images.stsci.edu/rings.v3.skycell/{path}",
    "https://stpubdata.s3.amazonaws.com/panstarrs/ps1/public/rings.v3.skycell/{path}",
    "https://mast.stsci.edu/api/v0.1/Download/file?uri=mast:PS1/product/{file}",
)
"""The image server of the Space Telescope Science Institute, the public copy in the cloud, and the
Mikulski Archive (outerspace.stsci.edu/display/PANSTARRS, "PS1 Stack images" and "MAST public
data on AWS"); asked in this order."""

_SUFFIX = {"image": "", "mask": ".mask", "weight": ".wt"}
_PORTS = {"https": 443, "http": 80}
_LONGEST = 2048


class Refused(Exception):
    """An address that must not be touched, or an answer that will not become another one."""


def file_name(array: SkyArray) -> str:
    """Return what the survey calls the file of an array.

    Examples
    --------
    >>> from idfzarr.ps1.sky_keys import sky_array
    >>> file_name(sky_array("1405.053", "r", "weight"))
    'rings.v3.skycell.1405.053.stk.r.unconv.wt.fits'
    """
    return f"rings.v3.{array.name}.stk.{array.band}.unconv{_SUFFIX[array.kind]}.fits"


def file_path(array: SkyArray) -> str:
    """Return the path of an array's file below the folder of all skycells."""
    cell = parse(array.name)
    return f"{cell.projection:04d}/{cell.cell:03d}/{file_name(array)}"


def address_of(mirror: str, array: SkyArray) -> str:
    """Return the address of an array's file on a mirror.

    Parameters
    ----------
    mirror
        With ``{path}`` or ``{file}``; where it has neither, the path comes after it.
    array
        Which file.
    """
    if "{path}" in mirror or "{file}" in mirror:
        return mirror.replace("{path}", file_path(array)).replace("{file}", file_name(array))
    return f"{mirror.rstrip('/')}/{file_path(array)}"


@dataclass(frozen=True)
class AddressRules:
    """Which addresses may be touched.

    Attributes
    ----------
    origins
        Scheme, host and port that may.
    named
        Hosts that may lie in a private network, since the person who asks has named them.
    """

    origins: frozenset[tuple[str, str, int]]
    named: frozenset[str]

    @classmethod
    def of(cls, mirrors: Iterable[str]) -> AddressRules:
        """Return the rules for a list of mirrors.

        Parameters
        ----------
        mirrors
            Those to be used. Mirrors that are not among `DEFAULT_MIRRORS` are named by whoever
            asks: these may speak http, and lie in a private network.

        Raises
        ------
        UsageError
            There is none, or one of them is no address.
        """
        origins: set[tuple[str, str, int]] = set()
        named: set[str] = set()
        for mirror in mirrors:
            try:
                origin = origin_of(mirror)
            except Refused as error:
                msg = f"the mirror {mirror[:200]!r} cannot be used: {error}"
                raise UsageError(msg) from error
            origins.add(origin)
            origins.add(("https", origin[1], 443))
            if mirror not in DEFAULT_MIRRORS:
                named.add(origin[1])
        if not origins:
            msg = "there is no mirror to fetch from: give at least one, or only use local files"
            raise UsageError(msg)
        return cls(frozenset(origins), frozenset(named))

    def check(self, url: str) -> None:
        """Refuse an address that is not on the list.

        Raises
        ------
        Refused
            And why.
        """
        origin = origin_of(url)
        if origin not in self.origins:
            msg = f"{origin[0]}://{origin[1]}:{origin[2]} is not on the list of hosts"
            raise Refused(msg)
        literal = _literal(origin[1])
        if literal is not None:
            self.check_address(origin[1], literal)

    def check_address(self, host: str, address: Any) -> None:
        """Refuse a network address that a host's name led to.

        Raises
        ------
        Refused
            It is none of the public network, and the host was not named.
        """
        found = ipaddress.ip_address(str(address).partition("%")[0])
        mapped = getattr(found, "ipv4_mapped", None) or found
        if host.lower() not in self.named and (not mapped.is_global or mapped.is_multicast):
            msg = f"{host} leads to {found}, which is no public address"
            raise Refused(msg)

    def after_redirect(self, url: str, location: str) -> str:
        """Return where a redirection leads, if one may follow it.

        Raises
        ------
        Refused
            It leads elsewhere.
        """
        if not location or len(location) > _LONGEST or not location.isprintable():
            msg = f"a redirection to {location[:80]!r}"
            raise Refused(msg)
        try:
            target = urljoin(url, location).partition("#")[0]
        except ValueError as error:
            msg = f"a redirection to {location[:80]!r}: {error}"
            raise Refused(msg) from error
        try:
            self.check(target)
        except Refused as error:
            msg = f"a redirection to {target[:200]}: {error}"
            raise Refused(msg) from error
        return target


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address.

    Raises
    ------
    Refused
        It is no address of the web, or carries a name and password.
    """
    if len(url) > _LONGEST or not url.isascii():
        msg = "it is no plain address"
        raise Refused(msg)
    if not url.isprintable() or "\\" in url or " " in url:
        msg = "it has characters that no address has"
        raise Refused(msg)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        msg = f"it is no address ({error})"
        raise Refused(msg) from error
    if parts.scheme not in _PORTS:
        msg = f"the scheme {parts.scheme[:20]!r} is neither https nor http"
        raise Refused(msg)
    if not parts.hostname or parts.username is not None or parts.password is not None:
        msg = "it names no host, or a user"
        raise Refused(msg)
    return parts.scheme, parts.hostname.lower().rstrip("."), port or _PORTS[parts.scheme]


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
