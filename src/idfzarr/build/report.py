"""What a build did, as data and as a page for people."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

__all__ = ["BuildReport", "Skipped", "json_value"]


def json_value(value: Any) -> Any:
    """Return a number or name as JSON has it: None for what is not finite."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Skipped:
    """An AOR, or one channel of it, that is not in the cube, and why.

    Attributes
    ----------
    aor, channel
        Its name and channel; ``*`` for all channels.
    reason
        One sentence that names the file.
    is_fault
        Whether something is wrong with what was given; a row of an AOR table without images is
        none.
    """

    aor: str
    channel: str
    reason: str
    is_fault: bool = True


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes
    ----------
    store
        Where the cube is: its path, or its url where that is no local one.
    n_objects, n_types, n_aors
        The cube's lengths.
    aors_measured
        AORs measured in this run; 0 where all had been.
    shards_written
        Shards written in this run.
    skipped
        What was given and is not in the cube.
    notes
        Sentences worth reading: the noise model, the registration.
    seconds
        Wall time of each step.
    changed
        Whether the run changed anything.
    """

    store: str
    n_objects: int
    n_types: int
    n_aors: int
    aors_measured: int = 0
    shards_written: int = 0
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    changed: bool = True

    @property
    def ok(self) -> bool:
        """Whether everything that was given is in the cube."""
        return not any(skipped.is_fault for skipped in self.skipped)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self) | {"ok": self.ok}

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """Return the report as people read it."""
        size = f"{self.n_objects} objects x {self.n_types} types x {self.n_aors} AORs"
        if self.changed:
            total = sum(self.seconds.values())
            lines = [f"{self.store}: {size}, {self.aors_measured} AORs measured in {total:.1f} s"]
            lines += [f"  {step:<28} {spent:6.1f} s" for step, spent in self.seconds.items()]
        else:
            lines = [f"{self.store}: {size}, complete; nothing changed"]
        lines += [f"note: {note}" for note in self.notes]
        if self.skipped:
            lines.append(f"not in the cube ({len(self.skipped)}):")
            lines += [f"  {s.aor} {s.channel}: {s.reason}" for s in self.skipped]
        return "\n".join(lines)
