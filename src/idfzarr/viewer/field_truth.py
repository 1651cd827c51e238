"""What was put into a simulated field, as the lightcurve that a perfect measurement would find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UsageError
from idfzarr.imaging.simulated_truth import energy_in_ellipse, matched_rows, read_truth
from idfzarr.measurement import parse_measurement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from idfzarr.imaging.simulated_truth import Truth
    from idfzarr.store.cube import Cube

__all__ = ["TruthOverlay", "read_overlay"]


@dataclass(frozen=True, eq=False)
class TruthOverlay:
    """The truth of a field, by the objects and AORs of its cube.

    Attributes
    ----------
    truth
        As simulated.
    rows
        Row of the truth by object id, for the objects that were detected.
    aors
        Position in the truth of each AOR of the cube, -1 for one that was not simulated.
    """

    truth: Truth
    rows: Mapping[int, int]
    aors: NDArray[np.intp]

    def describe(self, object_id: int) -> dict[str, Any]:
        """Return what an object was simulated as: kind, variable, period (d), amplitude.

        Empty where it was not simulated.
        """
        row = self.rows.get(object_id)
        if row is None:
            return {}
        names = ("id", "kind", "variable", "varies", "period", "amplitude")
        told = {name: self.truth.table[name][row] for name in names}
        return {
            name: value.item() if hasattr(value, "item") else value for name, value in told.items()
        }

    def flux(
        self, object_id: int, type: str, *, calibrated: bool, shape: Mapping[str, float]
    ) -> NDArray[np.float64] | None:
        """Return the flux that a perfect measurement would find, without neighbours.

        Parameters
        ----------
        object_id
            The object.
        type
            A type on original or clean images, or on differences.
        calibrated
            On the scale of the ensemble, as calibrated lightcurves are; else with the zero point
            that each AOR was given.
        shape
            ``kron_a``, ``kron_b`` (pixels) and ``theta`` (radians) of the object, for the Kron
            aperture.

        Returns
        -------
        ndarray or None
            (aor,) microjansky, NaN for AORs that were not simulated; None where the object was not
            simulated or the share of the light that the type holds is not known.
        """
        row = self.rows.get(object_id)
        try:
            asked = parse_measurement(type)
        except UsageError:
            return None
        if row is None or asked.channel not in self.truth.channels or asked.image == "ratio":
            return None
        share = self._share(row, asked.channel, asked.method, asked.radius, shape)
        if share is None:
            return None
        c = self.truth.channel_index(asked.channel)
        zero = self.truth.zeropoint[:, c]
        own = self.truth.flux[row, c] * share
        if asked.image == "diff":
            own = own - own.mean()
        own = own * (np.median(zero) if calibrated else zero)
        return np.where(self.aors >= 0, own[self.aors], np.nan)

    def _share(
        self,
        row: int,
        channel: str,
        method: str,
        radius: float | None,
        shape: Mapping[str, float],
    ) -> float | None:
        name = f"energy_{channel}_{method}"
        if name in self.truth.table.colnames:
            return float(self.truth.table[name][row])
        if method == "auto":
            a, b, angle = (float(shape.get(n, np.nan)) for n in ("kron_a", "kron_b", "theta"))
        elif radius is not None:
            a, b, angle = radius, radius, 0.0
        else:
            return None
        try:
            object_id = int(self.truth.table["id"][row])
            degrees = float(np.degrees(angle))
            return energy_in_ellipse(self.truth, object_id, channel, a=a, b=b, angle=degrees)
        except UsageError:
            return None  # an aperture beyond what the truth can integrate


def read_overlay(folder: Path, cube: Cube) -> TruthOverlay:
    """Read the truth of a cube's field.

    Raises
    ------
    StoreMissing, ImageUnreadable
        The folder holds none, or it is damaged.
    """
    truth = read_truth(folder)
    matched = matched_rows(truth, cube.coordinate("x"), cube.coordinate("y"))
    ids = cube.objects
    rows = {int(ids[own]): k for k, own in enumerate(matched) if own >= 0}
    place = {int(key): k for k, key in enumerate(truth.reqkey)}
    aors = np.array([place.get(int(key), -1) for key in cube.aors], dtype=np.intp)
    return TruthOverlay(truth, rows, aors)
