"""Lines of JSON that end in their own crc32c: what ledger, scrub history and quarantine keep."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from idfzarr.store.checksum import crc32c

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["checked_line", "sealed_line"]

_CRC = ',"line_crc32c":"'
_TAIL = len(_CRC) + 8 + len('"}')


def sealed_line(document: Mapping[str, Any]) -> bytes:
    """Return a document as a line whose last field is the crc32c of the others."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text[:-1].encode() + _seal(text.encode()) + b"\n"


def checked_line(line: bytes) -> tuple[bytes, str]:
    """Return the JSON of a line, and why it cannot be believed: nothing where it can.

    Parameters
    ----------
    line
        Without its newline.
    """
    body, tail = line[:-_TAIL] + b"}", line[-_TAIL:]
    if not (tail.startswith(_CRC.encode()) and tail.endswith(b'"}')):
        return body, "no crc32c at its end"
    return body, "" if tail == _seal(body) else "it does not match its crc32c"


def _seal(body: bytes) -> bytes:
    return f'{_CRC}{crc32c(body):08x}"}}'.encode()
