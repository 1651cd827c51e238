"""What a point of a lightcurve says of itself, put into words in the browser.

A thousand points have a thousand names and as many lists of flags; sent as text they cost more
than all their numbers. The points carry numbers, and the words are sent once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bokeh.models import CustomJSHover, HoverTool

from idfzarr.flags import FLAGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["PointWords"]

_TIPS = [
    ("lightcurve", "@series{words}"),
    ("date (UTC)", "@mjd{words}"),
    ("MJD", "@mjd{0.00000} d"),
    ("AOR", "@aor @position{words}"),
    ("flux", "@flux{0.0000} ± @flux_err{0.0000}"),
    ("drawn", "@y{0.0000}"),
    ("flags", "@flag{words}"),
]
# Bokeh escapes what these return, as it does everything in a tooltip.
_NUMBERED = 'return format === "words" ? (words[value] ?? "") : `${value}`'
_NAMED_BITS = """return words.filter(([bit]) => (value & bit) !== 0).map(([, name]) => name)
  .join(", ")"""
# MJD 40587 is 1970-01-01; a format that is none of ours is a number of decimals.
_DATED = """if (format !== "words") return value.toFixed(format.length - 2)
const date = new Date((value - 40587) * 86400000)
return isNaN(date) ? "" : date.toISOString().slice(0, 16).replace("T", " ")"""


class PointWords:
    """Tooltips of points, and the words behind their numbers.

    Attributes
    ----------
    hover
        The tool; its `renderers` are those whose points speak.
    """

    def __init__(self) -> None:
        bits = [[flag.bit, flag.name.replace("_", " ")] for flag in FLAGS]
        self._labels = CustomJSHover(code=_NUMBERED, args={"words": []})
        self._aors = CustomJSHover(code=_NUMBERED, args={"words": []})
        self._names: Any = None
        self.hover = HoverTool(
            renderers=[],
            tooltips=_TIPS,
            formatters={
                "@series": self._labels,
                "@position": self._aors,
                "@flag": CustomJSHover(code=_NAMED_BITS, args={"words": bits}),
                "@mjd": CustomJSHover(code=_DATED),
            },
            limit=4,
        )

    def tell(self, labels: Sequence[str], aor_names: NDArray[Any] | None) -> None:
        """Say what the numbers of series and AORs stand for.

        Parameters
        ----------
        labels
            Of the lightcurves, in order.
        aor_names
            Of the AORs, in the order of the cube; as before where None.
        """
        if self._labels.args["words"] != list(labels):
            self._labels.args = {"words": list(labels)}
        if aor_names is not None and aor_names is not self._names:
            self._names = aor_names
            self._aors.args = {"words": [str(name) for name in aor_names]}
