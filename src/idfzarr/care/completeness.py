"""A small map of what is there: shards, AORs by channel and types, as bars of characters.

A bar never flatters: a place is drawn full only where everything behind it is there, and empty only
where nothing is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.report_words import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Bar", "bars", "binned", "level_text", "map_lines"]

_HEIGHTS = "▁▂▃▄▅▆▇"
_FULL, _NONE, _UNKNOWN = "█", "·", "?"
_MOST_TYPES = 12


@dataclass(frozen=True)
class Bar:
    """One line of the map.

    Attributes
    ----------
    label
        What it is about, as ``shards`` or ``AORs ch1``.
    fractions
        What is there of each of its parts, 0 to 1, in order; NaN where that was not looked at.
    unit
        What a part is called.
    """

    label: str
    fractions: NDArray[np.float64]
    unit: str

    @property
    def mean(self) -> float:
        """What is there of all parts together; NaN where nothing was looked at."""
        known = self.fractions[np.isfinite(self.fractions)]
        return float(known.mean()) if known.size else float("nan")


def binned(fractions: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return means of at most `width` neighbouring bins, NaN left out.

    Parameters
    ----------
    fractions
        Any number of fractions; shape (n,).
    width
        Bins at most.

    Returns
    -------
    numpy.ndarray
        Shape (min(n, width),); NaN where a bin has nothing but NaN. A mean of a bin that is not
        full stays below 1, one of a bin that is not empty above 0.
    """
    n = fractions.size
    if n <= width:
        return fractions.astype(np.float64)
    edges = np.linspace(0, n, width + 1).astype(np.int64)[:-1]
    known = np.isfinite(fractions)
    total = np.add.reduceat(np.where(known, fractions, 0.0), edges)
    count = np.add.reduceat(known.astype(np.float64), edges)
    means: NDArray[np.float64] = np.full(width, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means


def level_text(fractions: NDArray[np.float64]) -> str:
    """Draw a character for each fraction: ``█`` for all, ``·`` for none, ``?`` for not known.

    Examples
    --------
    >>> level_text(np.array([0.0, 0.01, 0.5, 0.999, 1.0, np.nan]))
    '·▁▄▇█?'
    """
    return "".join(_level(float(fraction)) for fraction in fractions)


def _level(fraction: float) -> str:
    if np.isnan(fraction):
        return _UNKNOWN
    if fraction >= 1.0:
        return _FULL
    if fraction <= 0.0:
        return _NONE
    return _HEIGHTS[min(len(_HEIGHTS) - 1, int(fraction * len(_HEIGHTS)))]


def bars(completeness: Mapping[str, NDArray[Any]]) -> tuple[Bar, ...]:
    """Return the lines of the map for what an inventory knows.

    Parameters
    ----------
    completeness
        Of an inventory: ``shard``, fraction of each shard's chunks; ``aor``, (AOR, channel), what
        is observed, with the channels in ``channel_name``; ``type``, fraction of the chunks of
        each type, with ``type_name``. What is not there is left out.

    Returns
    -------
    tuple of Bar
        Neighbouring types of the same completeness are one line.
    """
    lines = []
    shard = completeness.get("shard")
    if shard is not None and shard.size:
        lines.append(Bar("shards", _numbers(shard).ravel(), "shard"))
    aor = completeness.get("aor")
    if aor is not None and aor.size:
        observed = _numbers(aor).reshape(aor.shape[0], -1)
        names = _names(completeness.get("channel_name"), observed.shape[1])
        lines += [
            Bar(f"AORs {name}".rstrip(), observed[:, c], "AOR") for c, name in enumerate(names)
        ]
    types = completeness.get("type")
    if types is not None and types.size:
        fractions = _numbers(types).ravel()
        lines += _type_bars(fractions, _names(completeness.get("type_name"), fractions.size))
    return tuple(lines)


def _numbers(array: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(array, dtype=np.float64)


def _names(given: NDArray[Any] | None, count: int) -> list[str]:
    if given is None or len(given) != count:
        return [""] if count == 1 else [str(number) for number in range(count)]
    return [visible(str(name), at_most=40) for name in given]


def _type_bars(fractions: NDArray[np.float64], names: Sequence[str]) -> list[Bar]:
    """Put neighbours of the same completeness together; the rest of too many lines is one more."""
    same = np.isclose(fractions[1:], fractions[:-1], rtol=0, atol=1e-12, equal_nan=True)
    first = [0, *(np.flatnonzero(~same) + 1).tolist()]
    last = [*first[1:], fractions.size]
    if len(first) > _MOST_TYPES:
        first, last = (
            [*first[: _MOST_TYPES - 1], first[_MOST_TYPES - 1]],
            [*last[: _MOST_TYPES - 1], fractions.size],
        )
    made = []
    for begin, end in zip(first, last, strict=True):
        label = names[begin] if end == begin + 1 else f"{names[begin]} … {names[end - 1]}"
        made.append(Bar(label or "types", fractions[begin:end], "type"))
    return made


def map_lines(completeness: Mapping[str, NDArray[Any]], *, width: int = 100) -> tuple[str, ...]:
    """Draw the map, at most about 20 lines.

    Parameters
    ----------
    completeness
        Of an inventory; see `bars`.
    width
        Characters of a line.

    Returns
    -------
    tuple of str
        A line for each bar: label, bar, per cent, and how many parts it has; none where nothing
        is known.
    """
    drawn = bars(completeness)[:20]
    if not drawn:
        return ()
    labels = max(len(bar.label) for bar in drawn)
    labels = min(labels, max(12, width // 2 - 10))
    room = max(10, width - labels - 26)
    return tuple(_line(bar, labels, room) for bar in drawn)


def _line(bar: Bar, labels: int, room: int) -> str:
    label = bar.label if len(bar.label) <= labels else f"{bar.label[: labels - 1]}…"
    n = bar.fractions.size
    if bar.unit == "type":  # all its parts are alike: a bar whose length says it
        filled = 0 if np.isnan(bar.mean) else int(bar.mean * room)
        shown = _FULL * filled + _NONE * (room - filled)
    else:
        shown = level_text(binned(bar.fractions, room))
    percent = "unknown" if np.isnan(bar.mean) else _percent(bar.mean)
    count = f"{n:,} {bar.unit}{'' if n == 1 else 's'}"
    return f"{label:<{labels}}  {shown:<{room}}  {percent:>7}  {count}"


def _percent(fraction: float) -> str:
    """Return per cent that round to 100 only where all is there, and to 0 only where nothing is."""
    if fraction in {0.0, 1.0}:
        return f"{fraction:.0%}"
    return f"{min(99.9, max(0.1, fraction * 100)):.1f}%"
