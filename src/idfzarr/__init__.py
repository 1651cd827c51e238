"""Lightcurves of a fixed field in one Zarr cube."""
