"""Remove the temporary files that a killed writer left in a store, beside it, and in its ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from idfzarr.store.exchange import relaid_place
from idfzarr.store.ledger import LEDGER_SUFFIX, Ledger
from idfzarr.store.place import LocalPlace

if TYPE_CHECKING:
    from idfzarr.store.place import Place

__all__ = ["remove_abandoned"]


def remove_abandoned(place: Place, uuid: str) -> tuple[str, ...]:
    """Remove the files half written whose writer was killed, and say so in the ledger.

    Parameters
    ----------
    place
        A store of ours, finished or not.
    uuid
        Its uuid.

    Returns
    -------
    tuple of str
        Paths of what was removed. Nothing that a live process is writing, nothing that another
        program named, and nothing on object storage, where a put leaves no such files.
    """
    if not isinstance(place, LocalPlace):
        return ()
    places = (place, place.beside(LEDGER_SUFFIX), relaid_place(place))
    removed = tuple(path for where in places for path in where.remove_abandoned())
    if removed:
        Ledger(place, uuid).append("removed", files=list(removed))
    return removed
