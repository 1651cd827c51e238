"""What an import has to say beside its numbers: what matched nothing, units, names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from idfzarr.measurement import parse_measurement

if TYPE_CHECKING:
    from pathlib import Path

    from idfzarr.build.catalogue_survey import CatalogueSurvey, Reading
    from idfzarr.store.schema import CubeSchema
    from idfzarr.store.writer import CubeWriter

__all__ = ["match_notes", "source_notes", "unseen_notes"]


def match_notes(writer: CubeWriter, schema: CubeSchema, reading: Reading) -> list[str]:
    """Keep how many rows of each table were no object, and say so."""
    counts = np.zeros((len(schema.aor_names), len(schema.channels)), dtype=np.int64)
    place = {name: k for k, name in enumerate(schema.aor_names)}
    listed: list[tuple[int, str]] = []
    n_tables = 0
    for record in writer.state().staged.values():
        for told in record.fields.get("sources", ()):
            n_tables += 1
            lost = int(told["n_unmatched"])
            own = [told["channel"]] if told["channel"] else list(schema.channels)
            for channel in own:
                counts[place[told["aor"]], schema.channels.index(channel)] += lost
            if lost:
                name = " ".join(n for n in (told["aor"], told["channel"], told["image"]) if n)
                listed.append((lost, f"{name}: {lost} of {told['n_rows']}"))
    writer.write_coordinate(
        "n_unmatched",
        counts,
        dims=("aor", "channel"),
        attributes={"long_name": "rows of the tables that are none of the objects"},
    )
    notes = []
    how = f"within {reading.radius:g} arcsec" if reading.by_sky else "by id"
    if listed:
        listed.sort(key=lambda pair: -pair[0])
        most = ", ".join(text for _, text in listed[:5])
        notes.append(
            f"{sum(n for n, _ in listed)} rows in {len(listed)} of {n_tables} tables are none of "
            f"the objects {how} ({most}{', ...' if len(listed) > 5 else ''}); see n_unmatched"
        )
    return notes


def unseen_notes(writer: CubeWriter) -> list[str]:
    """Say which objects have no flux at all."""
    n_measured = writer.read_array("catalogue/n_measured")
    never, n_objects = np.flatnonzero(n_measured == 0), len(n_measured)
    if len(never):
        ids = writer.read_array("object")[never]
        more = ", ..." if len(ids) > 5 else ""
        note = (
            f"{len(ids)} of {n_objects} objects have no flux in any table "
            f"({', '.join(str(i) for i in ids[:5])}{more})"
        )
        return [note]
    return []


def source_notes(survey: CatalogueSurvey, reading: Reading, aor_table: Path | None) -> list[str]:
    """Say where times come from, how objects were told, and what units and names mean."""
    notes = [] if aor_table is None else [f"times from the AOR table {aor_table}"]
    notes.append(
        f"objects matched by sky within {reading.radius:g} arcsec"
        if reading.by_sky
        else "objects told by their ids"
    )
    other = sorted({unit or "no unit" for unit in survey.units.values()} - {"uJy"})
    sums = [
        u
        for u in other
        if any(u == (v or "no unit") and not n.endswith("_ratio") for n, v in survey.units.items())
    ]
    if sums:
        notes.append(
            f"fluxes are in {', '.join(sums)}, not in microjansky: magnitudes need a "
            "count_zeropoint or a unit"
        )
    by_order = [t for t in survey.units if parse_measurement(t).method.startswith("aper")]
    if by_order and reading.rules is None and reading.radii is None:
        notes.append(
            "apertures are named by their order in the tables, which do not say their radii: give "
            "radii in pixels for true names"
        )
    return notes
