"""The words of a report: the verdict, findings alike put together, and names that cannot harm.

Names of files, arrays and types come from the store, which may be hostile: whatever a person is
shown goes through `visible`, so that a name can neither move a terminal's cursor nor turn the
direction of what follows it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from idfzarr.care.finding import KINDS, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from idfzarr.care.finding import Finding
    from idfzarr.care.inventory import Inventory

__all__ = [
    "Alike",
    "alike",
    "counted",
    "kind_words",
    "rate_text",
    "severity_counts",
    "size_text",
    "verdict",
    "visible",
]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
# Control and format characters, surrogates, private use, line and paragraph separators.
_UNSHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_LONGEST = 400


def visible(text: str, *, at_most: int = _LONGEST) -> str:
    r"""Return a text of which every character can be seen, on one line.

    Parameters
    ----------
    text
        Any, as a file name with control characters in it.
    at_most
        Characters; the middle of a longer text is left out.

    Returns
    -------
    str
        With ``\x1b`` and the like for what has no shape of its own.

    Examples
    --------
    >>> visible("plain name.txt")
    'plain name.txt'
    >>> print(visible("a" + chr(27) + "[2J" + chr(10) + chr(0x202E) + "b"))
    a\x1b[2J\n\u202eb
    """
    if len(text) > at_most:
        half = (at_most - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in _UNSHOWN
        else char
        for char in text
    )


def size_text(count: float) -> str:
    """Return a number of bytes as people read it, in powers of 1,000.

    Examples
    --------
    >>> size_text(999), size_text(5_120), size_text(2.4e9)
    ('999 B', '5.1 kB', '2.4 GB')
    """
    for unit in _UNITS[:-1]:
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def rate_text(count: float, seconds: float) -> str:
    """Return a rate of reading; empty where nothing was read or no time passed."""
    return f"{size_text(count / seconds)}/s" if count > 0 and seconds > 0 else ""


def counted(count: int, word: str) -> str:
    """Return a count and its word, in the plural where it must be.

    Examples
    --------
    >>> counted(1, "file"), counted(5000, "error")
    ('1 file', '5,000 errors')
    """
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def kind_words(kind: str) -> str:
    """Return the name of a kind as words: ``shard_torn`` is shard torn."""
    return kind.replace("_", " ")


def severity_counts(findings: Iterable[Finding]) -> dict[Severity, int]:
    """Return how many findings there are of each severity, the worst first, zeros too."""
    found = Counter(one.severity for one in findings)
    return {severity: found[severity] for severity in SEVERITIES}


@dataclass(frozen=True)
class Alike:
    """Findings of one kind and severity.

    Attributes
    ----------
    kind, severity
        What they share.
    findings
        All of them, in the order of the inventory.
    """

    kind: str
    severity: Severity
    findings: tuple[Finding, ...]

    @property
    def meaning(self) -> str:
        """What the kind means."""
        return KINDS[self.kind].meaning

    @property
    def remedy(self) -> str:
        """What to do about them, where they all say the same; else what is usual."""
        said = {one.remedy for one in self.findings}
        return said.pop() if len(said) == 1 else KINDS[self.kind].remedy

    @property
    def n_bytes(self) -> int:
        """The bytes they are about, where that is known."""
        return sum(one.where.n_bytes or 0 for one in self.findings)


def alike(findings: Sequence[Finding]) -> tuple[Alike, ...]:
    """Put findings of one kind and severity together: the worst first, then as KINDS has them.

    Parameters
    ----------
    findings
        Any; their order is kept within each group.

    Returns
    -------
    tuple of Alike
        Together they hold every finding once.
    """
    together: dict[tuple[Severity, str], list[Finding]] = {}
    for one in findings:
        together.setdefault((one.severity, one.kind), []).append(one)
    order = list(KINDS)
    ranked = sorted(together, key=lambda key: (SEVERITIES.index(key[0]), order.index(key[1])))
    return tuple(
        Alike(kind, severity, tuple(together[severity, kind])) for severity, kind in ranked
    )


def verdict(inventory: Inventory) -> str:
    """Say in one sentence how the store is.

    Parameters
    ----------
    inventory
        Of the store.

    Returns
    -------
    str
        ``healthy`` or what is wrong, as ``damaged: 1 shard torn, 2 chunk corrupt (3 errors)``.
    """
    number = severity_counts(inventory.findings)
    groups = alike(inventory.findings)
    named = [f"{len(g.findings):,} {kind_words(g.kind)}" for g in groups if g.severity != "note"]
    shown = ", ".join(named[:4]) + (f" and {len(named) - 4} other kinds" if len(named) > 4 else "")
    beside = f"; {counted(number['note'], 'note')}" if number["note"] else ""
    live = "; a writer is at work" if inventory.live else ""
    if number["error"]:
        return f"{_worst(groups)}: {shown}{beside}{live}"
    if number["warning"]:
        return f"to tidy up: {shown}{beside}{live}"
    pending = sum(len(g.findings) for g in groups if g.kind == "shard_pending")
    if pending:
        return f"healthy so far, {counted(pending, 'shard')} not built yet{live}"
    return f"healthy{beside}{live}"


def _worst(groups: Sequence[Alike]) -> str:
    """Say what errors make of a store: damaged where bytes are, else not all can be judged."""
    errors = [KINDS[g.kind].state for g in groups if g.severity == "error"]
    return "damaged" if "corrupt" in errors else "not sound"
