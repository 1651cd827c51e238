"""A cube of numbers of every kind, for tests that take them out again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table

from idfzarr.store.cube import create

TYPES = ("ch1_aper2_original", "ch2_aper2_original", "ch1_median7_ratio")
UNITS = ("uJy", "uJy", "")
N, A = 10, 7


@dataclass(frozen=True)
class Made:
    """A cube and what was put into it."""

    path: object
    ids: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    aor: np.ndarray
    mjd: np.ndarray
    bjd: np.ndarray
    flux: np.ndarray
    err: np.ndarray
    flag: np.ndarray

    def rows(self, objects, types):
        """Return the columns of a table of these lightcurves."""
        o = [int(np.flatnonzero(self.ids == one)[0]) for one in objects]
        t = [TYPES.index(one) for one in types]
        n = len(o) * len(t)
        return {
            "object": np.repeat(self.ids[o], len(t) * A),
            "type": np.tile(np.repeat(types, A), len(o)),
            "ra": np.repeat(self.ra[o], len(t) * A),
            "dec": np.repeat(self.dec[o], len(t) * A),
            "aor": np.tile(self.aor, n),
            "mjd": np.tile(self.mjd, n),
            "bjd_tdb": np.tile(self.bjd, n),
            "flux": self.flux[np.ix_(o, t)].ravel(),
            "flux_err": self.err[np.ix_(o, t)].ravel(),
            "flag": self.flag[np.ix_(o, t)].ravel(),
        }


def make_cube(path):
    rng = np.random.default_rng(7)
    ids = rng.permutation(np.arange(N) * 1_000_003 + 2**40)
    ra, dec = rng.uniform(359.99, 360.01, N) % 360, rng.uniform(-0.01, 0.01, N)
    aor, mjd = rng.permutation(A) + 2**33, 53000 + rng.uniform(0, 900, A)
    bjd = mjd + 2400000.5 + 0.004
    flux = rng.normal(3, 5, (N, 3, A)).astype(np.float32)
    # numbers of every kind that float32 has
    flux[0, 0] = [np.nan, 0.0, -0.0, 1e-45, 3.4028235e38, 1 / 3, -1.1754944e-38]
    err = np.abs(rng.normal(1, 1, (N, 3, A))).astype(np.float32)
    err[1, 1, 2] = np.nan
    flag = rng.integers(0, 65536, (N, 3, A)).astype(np.uint16)
    flag[:, :, ::2] = 0
    flag[0, 0, 0], flag[2, 1, 3] = 8192, 65535
    cube = create(
        path,
        objects=Table({"object_id": ids, "ra": ra, "dec": dec}),
        types=Table({"type": TYPES, "unit": UNITS}),
        aors=Table({"aor": aor, "mjd": mjd, "bjd_tdb": bjd}),
        shard_objects=4,
        settings={"made": "by hand"},
    )
    cube.write_block(0, flux=flux, flux_err=err, flag=flag)
    return Made(path, ids, ra, dec, aor, mjd, bjd, flux, err, flag)
