"""Inventories made by hand, for tests of what people see: no store is behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.finding import Finding, Where, finding

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class MadeGroup:
    name: str = "lightcurves"
    dims_text: str = "object x type x value x aor"
    n_arrays: int = 1
    n_files: int = 4
    n_bytes: int = 20_000_000
    n_logical: int = 64_000_000
    n_expected_chunks: int = 20_480
    n_present_chunks: int = 20_000
    states: Mapping[str, int] = field(default_factory=lambda: {"corrupt": 2, "stale": 0})


@dataclass(frozen=True)
class MadeInventory:
    findings: tuple[Finding, ...] = ()
    groups: tuple[MadeGroup, ...] = (
        MadeGroup(),
        MadeGroup("coordinates", "object", 30, 30, 42_000, 230_000, 30, 30, {}),
    )
    completeness: Mapping[str, Any] = field(default_factory=dict)
    url: str = "/data/field.zarr"
    store_kind: str = "cube"
    level: str = "scrub"
    uuid: str | None = "3f2b9f0e"
    generation: int | None = 3
    n_files: int = 260
    n_bytes: int = 23_000_000
    n_read: int = 23_000_000
    seconds: float = 0.5
    sampled: float | None = None
    live: bool = False

    @property
    def ok(self) -> bool:
        return not any(f.severity != "note" for f in self.findings)

    @property
    def exit_code(self) -> int:
        return 0 if self.ok else 1


def damaged(**changes: Any) -> MadeInventory:
    """Return an inventory with findings of every severity and a completeness of every sort."""
    rng = np.random.default_rng(4)
    shard_type = np.ones((9, 8))
    shard_type[3] = 0.4
    shard_type[5, 2:5] = np.round(rng.random(3), 2)
    names = np.array([f"ch{c}_aper{n}_original" for c in (1, 2) for n in range(1, 5)])
    aor = np.ones((64, 2), dtype=bool)
    aor[20:30, 1] = False
    aor[::7, 0] = False
    found = [
        finding("shard_torn", Where("lightcurves", "lightcurves/c/3/0/0/0", n_bytes=4_096),
                "the file has 4,096 bytes where the ledger says 312,004"),
        finding("chunk_corrupt",
                Where("lightcurves", "lightcurves/c/5/0/0/0", 1234, "ch1_aper2_original", 512, 88),
                "crc32c is 0x12345678, the chunk says 0x9abcdef0"),
        finding("partial_file", Where("", "mjd/c/0/0.77.partial", n_bytes=1_000),
                "nobody has written to it for 3 h", sure="likely"),
        finding("ledger_absent", Where(beside="ledger"), "there is no folder field.zarr.ledger"),
    ]  # fmt: skip
    shard = shard_type.mean(axis=1)
    known = {
        "shard": shard,
        "shard_type": shard_type,
        "type": shard_type.mean(axis=0),
        "type_name": names,
        "aor": aor,
        "channel_name": np.array(["ch1", "ch2"]),
    }
    return MadeInventory(**({"findings": tuple(found), "completeness": known} | changes))
