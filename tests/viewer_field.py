"""A small field with everything that a view can show: two channels, ratios, flags, calibration."""

from __future__ import annotations

import numpy as np
import pandas as pd

import idfzarr
from idfzarr.flags import flag_bit

RNG = np.random.default_rng(19)
N_AORS = 90
TYPES = ["ch1_aper2_clean", "ch2_aper2_clean", "ch1_median7_ratio"]
MJD = np.sort(RNG.uniform(53000, 53600, N_AORS))
OBJECTS = [11, 5, 8]


def make_field(path):
    """Write the field; returns the cube."""
    objects = pd.DataFrame(
        {
            "object_id": OBJECTS,
            "ra": [265.0, 265.01, 265.02],
            "dec": [69.0, 69.01, 69.02],
            "x": [3.0, 8.0, 5.0],
            "y": [4.0, 5.0, 5.5],
            "flux_auto_ch1": [100.0, 3.0, np.nan],
            "flux_auto_err_ch1": [1.0, 0.1, 1.0],
            "flux_auto_ch2": [50.0, 2.0, 1.0],
            "flux_auto_err_ch2": [1.0, 0.1, 1.0],
            "isolated": [True, False, True],
        }
    )
    types = pd.DataFrame({"type": TYPES, "unit": ["uJy", "uJy", ""]})
    aors = {
        "aor": np.arange(1000, 1000 + N_AORS),
        "mjd": MJD,
        "aor_name": [f"a{k}" for k in range(N_AORS)],
        "exptime": np.linspace(10, 20, N_AORS),
    }
    cube = idfzarr.create(path, objects=objects, types=types, aors=aors)
    flux = np.empty((3, 3, N_AORS))
    flux[0, :2] = 100 + 20 * np.sin(2 * np.pi * MJD / 7.3) + RNG.normal(0, 1, (2, N_AORS))
    flux[1, :2] = RNG.normal(0.5, 1.0, (2, N_AORS))
    flux[:2, 2] = RNG.normal(1.0, 0.02, (2, N_AORS))
    flux[2] = np.nan
    flux[0, 0, 40] = 1000.0
    flux[0, 1, 7] = np.nan
    flag = np.zeros((3, 3, N_AORS), np.uint16)
    flag[:, :, 3:9] = flag_bit("saturated")
    flag[:, :, 20:30] = flag_bit("neighbour")
    error = np.full_like(flux, 0.9)
    error[:, 2] = 0.02
    cube.write_block(0, flux=flux, flux_err=error, flag=flag)
    return idfzarr.Cube(path)
