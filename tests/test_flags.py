"""Flags: one bit each, exact in float32, mapped from SExtractor's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.errors import UnknownName
from idfzarr.flags import (
    BAD_FLAGS,
    FLAGS,
    flag_bit,
    flag_mask,
    flag_masks,
    flag_meanings,
    flag_names,
    from_sextractor,
)


def test_bits_are_powers_of_two_that_fit_uint16() -> None:
    bits = [flag.bit for flag in FLAGS]
    assert bits == [1 << n for n in range(len(bits))]
    assert max(bits) <= 1 << 15


def test_cf_attributes_agree() -> None:
    assert len(flag_masks()) == len(flag_meanings().split()) == len(FLAGS)


@given(st.sets(st.sampled_from([flag.name for flag in FLAGS])))
def test_names_survive_the_way_through_bits_and_float32(names: set[str]) -> None:
    mask = flag_mask(names)
    assert set(flag_names(mask)) == names
    assert int(np.float32(mask)) == mask


def test_good_drops_what_is_bad_and_keeps_what_is_a_remark() -> None:
    assert flag_bit("not_built") & BAD_FLAGS
    assert flag_bit("low_coverage") & BAD_FLAGS
    assert not flag_bit("neighbour") & BAD_FLAGS
    assert not flag_bit("cleaned") & BAD_FLAGS


def test_unknown_flag_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="no flag 'saturatd'; nearest: 'saturated'"):
        flag_bit("saturatd")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (0, ()),
        (1, ("masked_pixels", "neighbour")),
        (2, ("deblended",)),
        (4, ("saturated",)),
        (24, ("edge",)),
        (192, ("external",)),
    ],
)
def test_sextractor_flags(theirs: int, ours: tuple[str, ...]) -> None:
    assert flag_names(int(from_sextractor(theirs))) == ours
    assert from_sextractor([theirs]).dtype == np.uint16
