"""Settings of a build: chosen types, digests, and what differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from idfzarr.build.settings import Settings, choose_sky, choose_types
from idfzarr.errors import UnknownName, UsageError


def test_default_types_follow_the_channels() -> None:
    assert len(choose_types(["ch1", "ch2"], None)) == 40
    assert len(choose_types(["V"], None)) == 20
    assert choose_types(["ch1", "ch2"], "ch?_*") == choose_types(["ch1", "ch2"], None)


def test_types_are_globs_over_the_default_and_names_of_others() -> None:
    chosen = choose_types(["ch1"], ["ch1_r3.5_original", "*_auto_*"])
    assert chosen == ("ch1_auto_original", "ch1_auto_clean", "ch1_r3.5_original")


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ("ch2_auto_original", UsageError, "of channel 'ch2', of which there is no mosaic"),
        ("ch3_*", UnknownName, "no type matches 'ch3_\\*'"),
        ("ch1_atuo_original", UsageError, "'atuo' is no method"),
        ("", UsageError, "no type was asked for"),
    ],
)
def test_what_is_no_type_is_refused(wanted, error, message) -> None:
    with pytest.raises(error, match=message):
        choose_types(["ch1"], wanted)


def test_settings_survive_json_and_the_digest_sees_every_one() -> None:
    settings = Settings(types=("ch1_auto_original",))
    assert Settings.from_dict(settings.to_dict()) == settings
    changed = {
        "types": ("ch1_iso_original",),
        "sky": "mesh",
        "codec": "zstd",
        "precision": True,
    }
    for name in settings.to_dict():
        other = replace(settings, **{name: changed.get(name, 7)})
        assert other.digest != settings.digest, name
        assert name in other.differences(settings)


def test_sky_is_a_mesh_for_frames_without_wcs() -> None:
    assert choose_sky("auto", has_wcs=False) == "mesh"
    assert choose_sky("auto", has_wcs=True) == "plane"
    assert choose_sky("plane", has_wcs=False) == "plane"
    with pytest.raises(UsageError, match="'plain' is no way to remove the sky; nearest: 'plane'"):
        choose_sky("plain", has_wcs=True)
