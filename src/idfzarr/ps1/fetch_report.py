"""What became of a fetch, array by array."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

__all__ = ["OUTCOMES", "ArrayOutcome", "FetchInterrupted", "FetchReport", "Outcome", "Status"]

Outcome: TypeAlias = Literal["skipped", "local", "downloaded", "absent", "failed", "pending"]
"""``skipped``: it was in the store; ``local``: stored from a file on disk; ``downloaded``: stored
from a mirror; ``absent``: the survey has none; ``failed``; ``pending``: not come to."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""All of them."""

Status: TypeAlias = Literal["completed", "partial", "failed", "interrupted"]
"""``completed``: everything there is, is in the store; ``partial``: some arrays failed; ``failed``:
all that were not in the store did; ``interrupted``: stopped before its end."""

_STORED = ("skipped", "local", "downloaded")
_MOST_LISTED = 20


@dataclass(frozen=True)
class ArrayOutcome:
    """What became of one array.

    Attributes
    ----------
    skycell, band, kind
        Which one.
    outcome
        See `Outcome`.
    source
        Address or path it came from; empty where it came from nowhere.
    why
        What went wrong, or what was tried before it went well; empty where nothing did.
    n_bytes
        Bytes that came over the network for it, in vain ones too.
    seconds
        From its beginning to its end.
    """

    skycell: str
    band: str
    kind: str
    outcome: Outcome
    source: str = ""
    why: str = ""
    n_bytes: int = 0
    seconds: float = 0.0

    @property
    def stored(self) -> bool:
        """Whether it is in the store now."""
        return self.outcome in _STORED

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "skycell": self.skycell,
            "band": self.band,
            "kind": self.kind,
            "outcome": self.outcome,
            "source": self.source,
            "why": self.why,
            "bytes": self.n_bytes,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class FetchReport:
    """What became of a fetch.

    Attributes
    ----------
    store
        Path or URL of the store.
    skycells
        Names of the skycells that were asked for.
    padding
        Names of their neighbours that were asked for with them.
    arrays
        What became of every array, in the order of their names.
    seconds
        All in all.
    interrupted
        Whether it was stopped.
    notices
        What else a person should know.
    """

    store: str
    skycells: tuple[str, ...]
    padding: tuple[str, ...]
    arrays: tuple[ArrayOutcome, ...]
    seconds: float
    interrupted: bool = False
    notices: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """How it ended."""
        if self.interrupted:
            return "interrupted"
        counts = self.counts
        if not counts["failed"] and not counts["pending"]:
            return "completed"
        done = counts["skipped"] + counts["local"] + counts["downloaded"] + counts["absent"]
        return "partial" if done else "failed"

    @property
    def ok(self) -> bool:
        """Whether everything there is, is in the store."""
        return self.status == "completed"

    @property
    def counts(self) -> dict[str, int]:
        """How many arrays ended in which way."""
        found = Counter(array.outcome for array in self.arrays)
        return {outcome: found[outcome] for outcome in OUTCOMES}

    @property
    def n_bytes(self) -> int:
        """Bytes that came over the network."""
        return sum(array.n_bytes for array in self.arrays)

    def of(self, *outcomes: Outcome) -> tuple[ArrayOutcome, ...]:
        """Return the arrays that ended in some ways."""
        return tuple(array for array in self.arrays if array.outcome in outcomes)

    @property
    def message(self) -> str:
        """All in one sentence."""
        told = [f"{number} {outcome}" for outcome, number in self.counts.items() if number]
        every = f"{len(self.arrays)} arrays of {len({a.skycell for a in self.arrays})} skycells"
        return f"{every}: {', '.join(told) or 'nothing to do'}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it.

        Returns
        -------
        dict
            ``status``, ``message``, ``skycells_found`` (without neighbours), ``unique_images``
            (skycells and neighbours) and ``zarr_path``, as the earlier toolkit had them; with
            ``counts``, ``bytes``, ``seconds``, ``notices`` and ``arrays``.
        """
        return {
            "status": self.status,
            "message": self.message,
            "skycells_found": len(self.skycells),
            "unique_images": len({*self.skycells, *self.padding}),
            "zarr_path": self.store,
            "counts": self.counts,
            "bytes": self.n_bytes,
            "seconds": round(self.seconds, 3),
            "notices": list(self.notices),
            "arrays": [array.to_dict() for array in self.arrays],
        }

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_text(self) -> str:
        """Return it for people: the sum, and what failed."""
        lines = [f"{self.status}: {self.message}"]
        if self.n_bytes:
            lines.append(f"{self.n_bytes / 1e6:,.1f} MB in {self.seconds:,.1f} s")
        lines += [f"note: {notice}" for notice in self.notices]
        failed = self.of("failed")
        for array in failed[:_MOST_LISTED]:
            lines.append(f"failed: {array.skycell} {array.band} {array.kind}: {array.why}")
        if len(failed) > _MOST_LISTED:
            lines.append(f"... and {len(failed) - _MOST_LISTED} more failed; --json lists them all")
        lines.append(f"store: {self.store}")
        return "\n".join(lines)


class FetchInterrupted(KeyboardInterrupt):
    """Ctrl-C during a fetch; what was stored is stored, what was under way goes on next time.

    Attributes
    ----------
    report
        How far it came.
    """

    def __init__(self, report: FetchReport) -> None:
        super().__init__(report.message)
        self.report = report
