"""Words for axes: what every column is, and its unit.

Names and attributes come from data, and Bokeh sets what stands between ``$$`` with MathJax: `plain`
makes them harmless.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NO_UNIT", "Column", "axis_label", "catalogue_column", "plain", "unit_text"]

NO_UNIT = "no unit"
"""What stands in the brackets of a label where a number has no unit."""

_LONGEST = 80
_MATHS = re.compile(r"\$\$|\\[(\[)\]]")
_UNITS = {
    "uJy": "µJy",
    "degree": "deg",
    "pixel": "px",
    "pix": "px",
    "1": NO_UNIT,
    "": NO_UNIT,
}


@dataclass(frozen=True)
class Column:
    """What a column of numbers is.

    Attributes
    ----------
    name
        As it is called in tables and queries.
    label
        In words.
    unit
        As stored; empty where there is none.
    """

    name: str
    label: str
    unit: str = ""

    @property
    def axis(self) -> str:
        """The label of an axis."""
        return axis_label(self.label, self.unit)


def plain(text: str) -> str:
    """Return text of which nothing is set as mathematics, in one line and not too long.

    Examples
    --------
    >>> plain("$$x$$")
    '$ $x$ $'
    """
    harmless = _MATHS.sub(lambda found: " ".join(found[0]), str(text))
    line = "".join(c if c.isprintable() else " " for c in harmless)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def unit_text(unit: str) -> str:
    """Return a unit as people read it.

    Examples
    --------
    >>> unit_text("uJy")
    'µJy'
    """
    return plain(_UNITS.get(unit, unit))


def axis_label(label: str, unit: str) -> str:
    """Return what stands at an axis.

    Examples
    --------
    >>> axis_label("score", "")
    'score [no unit]'
    """
    return f"{plain(label)} [{unit_text(unit)}]"


# Columns of the catalogue that this package writes: idfzarr.imaging.detection, build.field.
_CATALOGUE: dict[str, tuple[str, str]] = {
    "object": ("object id", ""),
    "ra": ("right ascension, ICRS", "deg"),
    "dec": ("declination, ICRS", "deg"),
    "x": ("superstack x", "px"),
    "y": ("superstack y", "px"),
    "a": ("semi-major axis", "px"),
    "b": ("semi-minor axis", "px"),
    "theta": ("position angle from x to y", "rad"),
    "ellipticity": ("ellipticity", ""),
    "fwhm": ("full width at half maximum", "px"),
    "kron_radius": ("Kron radius", "semi-axes"),
    "kron_a": ("Kron ellipse, semi-major axis", "px"),
    "kron_b": ("Kron ellipse, semi-minor axis", "px"),
    "npix": ("area of the segment", "px"),
    "peak": ("peak of the detection image", "sigma"),
    "neighbour_distance": ("distance of the nearest neighbour", "px"),
    "isolated": ("has no neighbour", ""),
    "flags": ("flags of the detection", ""),
}
_PER_CHANNEL: dict[str, tuple[str, str]] = {
    "flux_auto": ("Kron flux", "flux"),
    "flux_auto_err": ("error of the Kron flux", "flux"),
    "snr": ("signal over noise", ""),
    "n_coverage": ("AORs that cover the object", ""),
}


def catalogue_column(
    name: str, attributes: Mapping[str, object], *, flux_units: Mapping[str, str]
) -> Column:
    """Say what a column of the catalogue is.

    Parameters
    ----------
    name
        Of the column.
    attributes
        Its attributes in the store; ``long_name`` and ``units`` count where they are.
    flux_units
        Unit of flux by channel.
    """
    label, unit = _CATALOGUE.get(name, (name.replace("_", " "), ""))
    head, _, channel = name.rpartition("_")
    if channel in flux_units and head in _PER_CHANNEL:
        label, unit = _PER_CHANNEL[head]
        label, unit = f"{channel} {label}", flux_units[channel] if unit == "flux" else unit
    return Column(
        name, str(attributes.get("long_name") or label), str(attributes.get("units") or unit)
    )
