"""The settings of a build: what decides which numbers come out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from idfzarr.errors import UsageError, closest
from idfzarr.measurement import Measurement, default_measurements, parse_measurement, select_types

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SKIES", "Asked", "Settings", "choose_sky", "choose_types"]

SKIES = ("auto", "plane", "mesh")
"""How the background of a mosaic is removed: see `Settings.sky`."""


@dataclass(frozen=True)
class Settings:
    """What decides which numbers a build gives; kept in the store with a digest.

    Attributes
    ----------
    types
        Names of the measurement types, in the order of the cube.
    sky
        ``plane`` fits a constant and a slope to each mosaic; ``mesh`` removes a background map
        first, for frames with a sky of their own structure.
    threshold
        Detection threshold on the superstack, in sigma.
    min_coverage
        Fraction of the AORs that must cover an object for it to be kept.
    clip
        Clipping of the superstack, in sigma.
    max_offset
        Pointing offset in pixels beyond which an AOR is flagged ``aor_bad``.
    empty_apertures
        How many empty apertures measure the noise of each AOR.
    seed
        Chooses the empty apertures.
    codec, precision, shard_objects
        How chunks are written.
    """

    types: tuple[str, ...]
    sky: Literal["plane", "mesh"] = "plane"
    threshold: float = 4.0
    min_coverage: float = 0.2
    clip: float = 3.0
    max_offset: float = 0.3
    empty_apertures: int = 2000
    seed: int = 1
    codec: str = "lz4"
    precision: bool = False
    shard_objects: int = 128

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The types, taken apart."""
        return tuple(parse_measurement(name) for name in self.types)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as they stand in the store's attributes."""
        return asdict(self) | {"types": list(self.types)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Settings:
        """Return the settings that stand in a store's attributes."""
        return cls(**(dict(stored) | {"types": tuple(stored["types"])}))

    @property
    def digest(self) -> str:
        """A digest of the settings: two builds with the same one give the same numbers."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: Settings) -> str:
        """Say in what two settings differ, for an error's sentence."""
        ours, theirs = self.to_dict(), other.to_dict()
        return ", ".join(
            f"{key} ({_brief(theirs[key])}, asked {_brief(ours[key])})"
            for key in ours
            if ours[key] != theirs[key]
        )


def _brief(value: object) -> str:
    return f"{len(value)} of them" if isinstance(value, list) else repr(value)


def choose_types(channels: Sequence[str], wanted: str | Sequence[str] | None) -> tuple[str, ...]:
    """Choose measurement types: globs over the default ones, or names of any others.

    Parameters
    ----------
    channels
        The channels there are mosaics of.
    wanted
        A string with commas, or names and globs; None for the default types of every channel.

    Returns
    -------
    tuple of str
        Names: default types in their order, then others as they were named.

    Raises
    ------
    UsageError
        A name is no type, or belongs to a channel without mosaics.
    UnknownName
        A glob matches nothing.

    Examples
    --------
    >>> choose_types(["ch1"], "ch1_auto_*,ch1_r3.5_original")
    ('ch1_auto_original', 'ch1_auto_clean', 'ch1_r3.5_original')
    """
    defaults = [measurement.name for measurement in default_measurements(channels)]
    if wanted is None:
        return tuple(defaults)
    asked = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    words = [word.strip() for word in asked if word.strip()]
    if not words:
        msg = "no type was asked for: give names or globs, as 'ch1_aper*_original'"
        raise UsageError(msg)
    chosen: dict[str, None] = {}
    globs = [word for word in words if word in defaults or any(c in word for c in "*?[")]
    if globs:
        chosen.update(dict.fromkeys(select_types(defaults, globs)))
    for word in words:
        if word not in globs:
            chosen[_other_type(word, channels)] = None
    return tuple(chosen)


def _other_type(name: str, channels: Sequence[str]) -> str:
    measurement = parse_measurement(name)
    if measurement.channel not in channels:
        msg = (
            f"type {name!r} is of channel {measurement.channel!r}, of which there is no mosaic"
            f"{closest(measurement.channel, channels)}; there are {', '.join(channels)}"
        )
        raise UsageError(msg)
    return measurement.name


@dataclass(frozen=True)
class Asked:
    """What a person asked for; None where nothing was said.

    Attributes
    ----------
    types, sky, threshold, min_coverage, codec, precision, shard_objects
        As in `Settings`; types may be globs, sky may be ``auto``.
    """

    types: str | Sequence[str] | None = None
    sky: str | None = None
    threshold: float | None = None
    min_coverage: float | None = None
    codec: str | None = None
    precision: bool | None = None
    shard_objects: int | None = None

    def settings(
        self, channels: Sequence[str], *, has_wcs: bool, stored: Settings | None = None
    ) -> Settings:
        """Return settings: what was asked, else what the store has, else the defaults.

        Parameters
        ----------
        channels
            The channels there are mosaics of.
        has_wcs
            Whether the mosaics have a WCS.
        stored
            The settings of a store that is there already.

        Returns
        -------
        Settings
            Types that are asked for are those of the settings; see `idfzarr.build.extend` for what
            that means where a store has others.

        Raises
        ------
        UsageError, UnknownName
            Something asked for cannot be.
        """
        if stored is None:
            base = Settings(
                types=choose_types(channels, self.types),
                sky=choose_sky("auto", has_wcs=has_wcs),
                # Frames aligned by their stars drift: only what all of them see has a whole
                # lightcurve.
                min_coverage=0.2 if has_wcs else 1.0,
            )
        else:
            types = stored.types if self.types is None else choose_types(channels, self.types)
            base = replace(stored, types=types)
        given = {
            name: value
            for name in ("threshold", "min_coverage", "codec", "precision", "shard_objects")
            if (value := getattr(self, name)) is not None
        }
        if self.sky is not None:
            given["sky"] = choose_sky(self.sky, has_wcs=has_wcs)
        return replace(base, **given)


def choose_sky(asked: str, *, has_wcs: bool) -> Literal["plane", "mesh"]:
    """Return how the sky is removed: ``auto`` is a mesh for frames without WCS.

    Raises
    ------
    UsageError
        `asked` is none of `SKIES`.
    """
    if asked not in SKIES:
        msg = (
            f"{asked!r} is no way to remove the sky{closest(asked, SKIES)}; "
            f"one of {', '.join(SKIES)}"
        )
        raise UsageError(msg)
    if asked == "auto":
        return "plane" if has_wcs else "mesh"
    return cast("Literal['plane', 'mesh']", asked)
