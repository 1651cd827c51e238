"""Bring an array of a published store and the values of new AORs together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UsageError
from idfzarr.store.arrays import parse_array
from idfzarr.store.store_writer import zarr_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.store.arrays import ArraySpec

__all__ = ["known_spec", "refuse_cast", "with_columns"]


def known_spec(
    path: str,
    node: Mapping[str, Any],
    *,
    dims: tuple[str, ...],
    attributes: Mapping[str, Any] | None,
) -> ArraySpec:
    """Return what an array of the store is; it keeps its data type, chunks and codec.

    Parameters
    ----------
    path
        Where it is below the root.
    node
        Its metadata.
    dims
        The dimensions it must have.
    attributes
        Its new attributes; None for those it has.

    Raises
    ------
    UsageError
        This package does not write such arrays, or its dimensions are others.
    """
    spec = parse_array(path, node) if node.get("node_type") == "array" else None
    if spec is None or spec.dims != dims:
        msg = (
            f"{path!r} was not written by idfzarr, or has other dimensions than {dims}: it cannot "
            "be changed with the cube; remove it from the store first"
        )
        raise UsageError(msg)
    return spec if attributes is None else replace(spec, attributes=dict(attributes))


def refuse_cast(path: str, values: NDArray[Any], spec: ArraySpec) -> None:
    """Refuse values that an array of the store cannot hold; raises `UsageError`."""
    given = zarr_dtype(values)
    if "string" in {given, spec.dtype}:
        fits = given == spec.dtype
    else:
        fits = np.can_cast(values.dtype, np.dtype(spec.dtype), "same_kind")
    if not fits:
        msg = f"{path!r} is stored as {spec.dtype}, and cannot hold values of type {values.dtype}"
        raise UsageError(msg)


def with_columns(
    path: str,
    values: NDArray[Any],
    old: NDArray[Any] | None,
    *,
    axis: int,
    columns: tuple[int, ...],
    lengths: tuple[int, int],
) -> NDArray[Any]:
    """Return all AORs of an array: those that are there, and a change's part of the values.

    Parameters
    ----------
    path
        Where it is below the root, for the sentence of an error.
    values
        All AORs, or those of the change only.
    old
        What is there, which stays wherever the change has no column; None where nothing is.
    axis
        Which axis the AORs are along.
    columns
        Positions of the change's AORs.
    lengths
        Number of AORs now, and as it will be.

    Returns
    -------
    ndarray
        All AORs as they will be. Of an array that is new and given for the change only, the others
        are NaN, or no text.

    Raises
    ------
    UsageError
        The shape is another, or whole numbers are missing.
    """
    n_before, n_all = lengths
    length = values.shape[axis] if values.ndim > axis else -1
    if length not in {n_all, len(columns)}:
        msg = (
            f"{path!r} has {length} AORs along dimension {axis}: give all {n_all}, or the "
            f"{len(columns)} of this change"
        )
        raise UsageError(msg)
    if old is None and length == n_all:
        return values
    own = values if length == len(columns) else np.take(values, columns, axis=axis)
    if old is None:
        old = _nothing(path, values, axis, n_before)
    there, new = np.moveaxis(old, axis, -1), np.moveaxis(own, axis, -1)
    if there.shape[:-1] != new.shape[:-1]:
        msg = f"{path!r} has shape {old.shape}; values of shape {values.shape} do not fit beside it"
        raise UsageError(msg)
    out = np.empty((*there.shape[:-1], n_all), dtype=np.result_type(old.dtype, own.dtype))
    out[..., :n_before] = there
    out[..., list(columns)] = new
    return np.moveaxis(out, -1, axis)


def _nothing(path: str, like: NDArray[Any], axis: int, length: int) -> NDArray[Any]:
    """Return what stands for AORs of which nothing is known: NaN, or no text."""
    shape = tuple(length if k == axis else n for k, n in enumerate(like.shape))
    if like.dtype.kind == "f":
        return np.full(shape, np.nan, dtype=like.dtype)
    if like.dtype.kind in "OSTU":
        return np.full(shape, "", dtype=str)
    msg = (
        f"{path!r} holds {like.dtype}, which has no word for 'not known', but values are known for "
        "some of the AORs only; give floats, or values for all of them"
    )
    raise UsageError(msg)
