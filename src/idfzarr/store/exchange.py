"""Exchange a store for a tree that was laid out anew beside it, and tidy up after it.

The new tree is written as ``field.zarr.relaid`` and exchanged with ``field.zarr`` by one
``renameat2(RENAME_EXCHANGE)`` (Linux 3.15, https://man7.org/linux/man-pages/man2/rename.2.html): a
reader finds the old store or the new one. Where the file system cannot do that, the store is moved
aside and the new tree moved in: between these two renames there is no store under its name, and if
the writer is stopped just there, the next writer of this package puts it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from idfzarr.errors import UsageError
from idfzarr.store.arrays import parse_array
from idfzarr.store.ledger import Ledger, read_ledger
from idfzarr.store.place import LocalPlace, sync_folder
from idfzarr.store.root import ROOT_KEY, Root, read_root
from idfzarr.store.schema import LIGHTCURVES, STAGING
from idfzarr.store.update import Update, roll_forward

if TYPE_CHECKING:
    from idfzarr.store.place import Place

__all__ = [
    "QUARANTINE_SUFFIX",
    "RELAID_SUFFIX",
    "exchange",
    "exchange_at_once",
    "is_reencoded",
    "recover_exchange",
    "relaid_place",
    "settle_exchange",
]

RELAID_SUFFIX = ".relaid"
"""What a tree is called while it is laid out anew, and the old one right after the exchange."""

QUARANTINE_SUFFIX = ".quarantine"
"""Where what others put into a store is moved, should it not be in the new tree."""

_ASIDE_SUFFIX = ".aside"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def relaid_place(place: Place) -> LocalPlace:
    """Return where a store is laid out anew.

    Parameters
    ----------
    place
        The store. Where its name is a link, what it leads to is exchanged.

    Raises
    ------
    UsageError
        The store is not on a local disk.
    """
    if not isinstance(place, LocalPlace):
        msg = (
            f"{place.url} is on object storage, where a store cannot be exchanged for another in "
            "one step; copy it to a local disk, lay it out anew there and copy it back, or build "
            "into a new store"
        )
        raise UsageError(msg)
    return LocalPlace(os.path.realpath(place.root) + RELAID_SUFFIX)


def exchange(place: Place) -> None:
    """Exchange a store for the tree that was laid out anew beside it.

    Raises
    ------
    UsageError
        The store is not on a local disk.
    OSError
        The file system refuses; the store stands as it was.
    """
    new = relaid_place(place).root
    old = new.removesuffix(RELAID_SUFFIX)
    if not exchange_at_once(new, old):
        aside = old + _ASIDE_SUFFIX
        os.rename(old, aside)
        os.rename(new, old)
        os.rename(aside, new)
    sync_folder(os.path.dirname(old))


def exchange_at_once(one: str, other: str) -> bool:
    """Exchange two names; False where the system or the file system has no way to."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # no such function in the C library
        return False
    name = (ctypes.c_int, ctypes.c_char_p)
    rename.argtypes = (*name, *name, ctypes.c_uint)
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), one, None, other)


def recover_exchange(place: Place) -> bool:
    """Put a store back under its name whose writer was stopped between two renames.

    Parameters
    ----------
    place
        The store.

    Returns
    -------
    bool
        Whether there was anything to do; never where the file system exchanges at once.
    """
    if not isinstance(place, LocalPlace):
        return False
    new = relaid_place(place)
    old = new.root.removesuffix(RELAID_SUFFIX)
    aside = old + _ASIDE_SUFFIX
    # Only with a line in the ledger: somebody may call a folder of his own so.
    if not os.path.isdir(aside) or next(read_ledger(place).of("relayout"), None) is None:
        return False
    if not os.path.lexists(old):
        os.rename(new.root if new.size(ROOT_KEY) is not None else aside, old)
    if os.path.lexists(aside) and not os.path.lexists(new.root):
        os.rename(aside, new.root)
    sync_folder(os.path.dirname(old))
    return True


def settle_exchange(place: Place) -> None:
    """Finish what is left to do after an exchange: the ledger, and the old tree.

    Parameters
    ----------
    place
        A published store. Nothing is done where it was not exchanged.
    """
    recover_exchange(place)
    root = read_root(place)
    _adopt_shards(place, root)
    roll_forward(place)
    if not isinstance(place, LocalPlace):
        return
    old = relaid_place(place)
    if old.size(ROOT_KEY) is not None:
        before = read_root(old)
        if before.uuid == root.uuid and before.generation < root.generation:
            _dispose(old, before, place, root)
    elif old.exists() and next(iter(old.keys()), None) is None:
        old.remove_tree("")  # a removal was stopped when nothing but folders was left


def _adopt_shards(place: Place, root: Root) -> None:
    """Call the shards of the new tree done, now that it is the store."""
    state = read_ledger(place).for_store(root.uuid)
    ended = {record.fields.get("update") for record in state.of("published")}
    for record in state.of("relayout"):
        update = Update.of_record(record)
        if update.generation == root.generation and update.token not in ended:
            Ledger(place, root.uuid).append_all("done", state.relaid(update.token).values())


def is_reencoded(root: Root, path: str) -> bool:
    """Say whether an array is written anew where chunks change: those along ``aor`` or ``type``."""
    node = root.metadata.get(path, {})
    if path == LIGHTCURVES:
        return True
    if node.get("node_type") != "array":
        return False
    spec = parse_array(path, node)
    return spec is not None and bool({"aor", "type"} & set(spec.dims))


def owner_of(key: str) -> str:
    """Return the path of the array or group that a key of a store belongs to."""
    if "/c/" in key:
        return key.split("/c/", 1)[0]
    return key.removesuffix("/" + ROOT_KEY).removesuffix("/c")


def _dispose(old: LocalPlace, before: Root, place: Place, root: Root) -> None:
    """Remove the old tree where the new one holds the same; the rest goes to quarantine."""
    for key in old.keys():
        if key != ROOT_KEY and (
            key.split("/")[0] == STAGING
            or is_reencoded(before, owner_of(key))
            or (place.size(key) == old.size(key) and place.read(key) == old.read(key))
        ):
            old.remove(key)
    kept = [key for key in old.keys() if key != ROOT_KEY]
    if kept:
        target = place.beside(QUARANTINE_SUFFIX)
        assert isinstance(target, LocalPlace)  # noqa: S101  # as the place beside it
        for key in kept:
            target.write(f"relayout-{root.generation}/{key}", old.read(key))
    Ledger(place, root.uuid).append(
        "removed", prefix=old.root, quarantined=kept, generation=before.generation
    )
    old.remove_tree("")
