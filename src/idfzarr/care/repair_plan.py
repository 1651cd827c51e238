"""What a repair or a cleaning is going to do, and what it did: plain values.

A plan is made from an inventory, printed, read, and only then applied. Its actions stand in the
order in which they are carried out, which does not depend on anything but the store.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from idfzarr.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ACTIONS", "Action", "ActionKind", "Outcome", "RepairPlan", "RepairReport"]

ActionKind = Literal[
    "restore_metadata",
    "note_ledger",
    "roll_forward",
    "abandon_update",
    "rewrite_array",
    "rewrite_shard",
    "mark_lost",
    "recompute_variability",
    "refetch",
    "quarantine",
]
"""What repair can do, in the order in which it does it: what others need comes first."""

ACTIONS: tuple[ActionKind, ...] = get_args(ActionKind)
"""All kinds of actions."""


@dataclass(frozen=True)
class Action:
    """One step of a plan.

    Attributes
    ----------
    kind
        What is done.
    key
        The file or folder that it is done to; the root's is ``zarr.json``.
    reason
        Why, in one sentence.
    n_bytes
        Bytes that are rewritten or moved.
    details
        More of it in JSON's types: ``beside``, ``objects``, ``intact``, ``rebuild``, ...
    """

    kind: ActionKind
    key: str
    reason: str
    n_bytes: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    def sort_key(self) -> tuple[Any, ...]:
        """Return what actions are sorted by; the root comes before other metadata.

        What is made of the lightcurves comes ``late``, after these.
        """
        beside = str(self.details.get("beside", ""))
        order = ACTIONS.index("mark_lost" if self.details.get("late") else self.kind)
        parts = [(int(p), "") if p.isdecimal() else (-1, p) for p in self.key.split("/")]
        return (order, bool(self.details.get("late")), beside, len(parts) > 1, parts)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "kind": self.kind,
            "key": self.key,
            "reason": self.reason,
            "n_bytes": self.n_bytes,
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class RepairPlan:
    """What is going to be done to a store; nothing is until `apply`.

    Attributes
    ----------
    url
        The store.
    uuid
        Its uuid; None where nothing says it.
    actions
        In the order in which they are carried out.
    lost
        Sentences about what cannot be mended, or not by repair.
    images
        Folder with the mosaics, if another than that which the ledger names.
    accept_loss
        Whether lightcurves may be marked as lost of which the plan does not say so.
    """

    url: str
    uuid: str | None
    actions: tuple[Action, ...] = ()
    lost: tuple[str, ...] = ()
    images: str | None = None
    accept_loss: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes that are rewritten or moved."""
        return sum(action.n_bytes for action in self.actions)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "url": self.url,
            "uuid": self.uuid,
            "images": self.images,
            "accept_loss": self.accept_loss,
            "n_actions": len(self.actions),
            "n_bytes": self.n_bytes,
            "actions": [action.to_dict() for action in self.actions],
            "lost": list(self.lost),
        }

    def to_json(self) -> str:
        """Return it as JSON: the same text for the same store."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False)

    def apply(self, *, progress: Progress = silent) -> RepairReport:
        """Carry the plan out.

        Parameters
        ----------
        progress
            Told of actions done.

        Returns
        -------
        RepairReport
            What was done, and what is lost.

        Raises
        ------
        UsageError
            A writer is at work, another repair is, or the store is on object storage.
        """
        from idfzarr.care.repair_actions import apply_plan

        return apply_plan(self, progress=progress)


@dataclass(frozen=True)
class Outcome:
    """What became of one action.

    Attributes
    ----------
    action
        Which.
    result
        ``done``; ``unneeded`` where there was nothing to do any more; ``failed``.
    message
        What was done, or why not, in one sentence.
    lost
        Sentences about what it could not mend.
    inexact
        Sentences about what it mended, and which may differ in its last bits from what was there.
    """

    action: Action
    result: Literal["done", "unneeded", "failed"]
    message: str
    lost: tuple[str, ...] = ()
    inexact: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepairReport:
    """What a repair or a cleaning did.

    Attributes
    ----------
    url
        The store.
    outcomes
        One for every action, in order.
    lost
        Sentences about what could not be mended.
    quarantine
        Name of the batch in the quarantine with the original bytes; empty where none was needed.
    """

    url: str
    outcomes: tuple[Outcome, ...]
    lost: tuple[str, ...]
    quarantine: str = ""

    @property
    def inexact(self) -> tuple[str, ...]:
        """Sentences about what was mended and may differ in its last bits from what was there."""
        return tuple(sorted({text for outcome in self.outcomes for text in outcome.inexact}))

    @property
    def ok(self) -> bool:
        """Whether no action failed."""
        return all(outcome.result != "failed" for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "url": self.url,
            "ok": self.ok,
            "quarantine": self.quarantine,
            "outcomes": [
                {"result": o.result, "message": o.message, "lost": list(o.lost)}
                | {"action": o.action.to_dict()}
                for o in self.outcomes
            ],
            "lost": list(self.lost),
            "inexact": list(self.inexact),
        }

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False)
