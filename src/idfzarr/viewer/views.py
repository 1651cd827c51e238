"""Every plot of the viewer as a free function that returns a HoloViews object.

They work in a notebook, on the page, and in a script: ``holoviews.save(plot, "plot.html")``. Each
axis carries its unit.
"""

from __future__ import annotations

from idfzarr.viewer.curve_views import folded_plot, lightcurve_plot, periodogram_plot, rate_plot
from idfzarr.viewer.image_views import completeness_map, field_image, stamp_plot
from idfzarr.viewer.object_views import (
    Summary,
    histogram,
    sky_map,
    statistic_against_magnitude,
    summary,
)

__all__ = [
    "Summary",
    "completeness_map",
    "field_image",
    "folded_plot",
    "histogram",
    "lightcurve_plot",
    "periodogram_plot",
    "rate_plot",
    "sky_map",
    "stamp_plot",
    "statistic_against_magnitude",
    "summary",
]
