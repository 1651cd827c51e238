"""Skycells into a store: from files on disk first, then from the archive; resumable at any moment.

What is in the store is not fetched again; what the archive does not have is noted in the ledger
beside the store and not asked for again for a while; what fails is named in the report. Several
processes may fetch into one store: an array appears whole or not at all, and two downloads never
share one file. Nothing is done to signals or to logging.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from idfzarr.errors import IdfzarrError, ImageError, StorageFull, StoreExists, UsageError
from idfzarr.progress import Progress, silent
from idfzarr.ps1.download import Downloader, NotDownloaded, RetryRules
from idfzarr.ps1.fetch_choice import arrays_of, choose
from idfzarr.ps1.fetch_report import ArrayOutcome, FetchInterrupted, FetchReport
from idfzarr.ps1.fits_check import read_served
from idfzarr.ps1.linking import link_skycells
from idfzarr.ps1.local_files import LocalFiles, opened_inside
from idfzarr.ps1.mirrors import DEFAULT_MIRRORS, AddressRules, address_of, file_name
from idfzarr.ps1.partial import Part
from idfzarr.ps1.sky_keys import KINDS, SkyArray
from idfzarr.ps1.sky_ledger import ABSENT_DAYS, note_absent, note_asked, read_notes
from idfzarr.ps1.skystore import SkycellStore, create_skystore
from idfzarr.ps1.transport import AiohttpTransport
from idfzarr.store.ledger import Ledger
from idfzarr.store.place import LocalPlace
from idfzarr.store.root import software

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from idfzarr.ps1.fits_check import ServedImage
    from idfzarr.ps1.tess import Rule
    from idfzarr.store.place import Place, PlaceLike

__all__ = ["LOCAL_DATA", "download_and_store_ps1_data", "fetch_skycells", "known_absent"]

LOCAL_DATA = "data/ps1_skycells"
"""Where files are looked for first, as the earlier toolkit did."""

_MOST_WORKERS = 64
_POLL = 0.1
_LIST = "data/skycell_pixel_mapping/sector_{0:04d}/camera_{1}/ccd_{2}"
_LIST_NAME = "tess_s{0:04d}_{1}_{2}_master_skycells_list.csv"

T = TypeVar("T")


def fetch_skycells(
    store: PlaceLike,
    *,
    skycells: str | Iterable[str] | None = None,
    sector: int | None = None,
    camera: int | None = None,
    ccd: int | None = None,
    cone: tuple[float, float, float] | None = None,
    csv: str | os.PathLike[str] | None = None,
    field: PlaceLike | None = None,
    rule: Rule = "overlap",
    padding: bool | None = None,
    bands: str | Iterable[str] = "grizy",
    kinds: str | Sequence[str] = KINDS,
    use_local_files: bool | None = None,
    local_data_path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = LOCAL_DATA,
    local_templates: Sequence[str] = (),
    local_only: bool = False,
    overwrite: bool = False,
    retry_absent: bool = False,
    absent_days: float = ABSENT_DAYS,
    num_workers: int = 8,
    per_host: int = 4,
    mirrors: Sequence[str] = DEFAULT_MIRRORS,
    retry: RetryRules | None = None,
    silence: float = 60.0,
    progress: Progress = silent,
) -> FetchReport:
    """Fetch skycells into a store, which is made where there is none.

    Parameters
    ----------
    store
        Folder or URL of the store of skycells.
    skycells, sector, camera, ccd, cone, csv, field, rule, padding
        Which skycells, see `idfzarr.ps1.fetch_choice.choose`. A cube given as ``field`` is linked
        with the store: its root says from then on where the skycells are.
    bands
        Some of grizy.
    kinds
        Some of image, mask and weight (a variance).
    use_local_files
        Whether to look for files on disk first; None looks where there is such a folder.
    local_data_path, local_templates
        Folders and paths below them, see `idfzarr.ps1.local_files.LocalFiles.of`.
    local_only
        Never touch the network.
    overwrite
        Fetch again what is in the store, and put it in its place.
    retry_absent, absent_days
        Ask again for what the archive did not have; else after so many days.
    num_workers, per_host
        Arrays at once, and connections at once to one host.
    mirrors
        Addresses with ``{path}`` or ``{file}``, asked in this order. A mirror that is not among
        the default ones may speak http, and may lie in a private network.
    retry, silence
        How long to keep trying, and seconds without a byte after which an answer has stalled.
    progress
        Told of arrays done (``fetch``) and of bytes (``download``).

    Returns
    -------
    FetchReport
        What became of every array.

    Raises
    ------
    UsageError
        What was asked cannot be asked, or no skycell is found.
    StoreError
        Something else stands where the store should be, or there is no cube.
    FetchInterrupted
        Ctrl-C; a KeyboardInterrupt that carries the report. The same call goes on.
    """
    began = time.monotonic()
    for name, number in (("num_workers", num_workers), ("per_host", per_host)):
        if not 0 < number <= _MOST_WORKERS:
            msg = f"{name} goes from 1 to {_MOST_WORKERS} and is {number}"
            raise UsageError(msg)
    chosen = choose(
        skycells=skycells,
        sector=sector,
        camera=camera,
        ccd=ccd,
        cone=cone,
        csv=csv,
        field=field,
        rule=rule,
        padding=padding,
    )
    arrays = arrays_of(chosen.all, bands, kinds)
    rules = None if local_only else AddressRules.of(mirrors)
    local, notices = _local_files(local_data_path, local_templates, use_local_files, local_only)
    opened = create_skystore(store, exist_ok=True)
    opened.remove_abandoned()
    if field is not None:
        link_skycells(field, store)
    notes = read_notes(opened.place, opened.uuid, days=absent_days)
    ledger = Ledger(opened.place, opened.uuid)
    note_asked(ledger, arrays, notes)
    plan = _Plan(
        store=opened,
        ledger=ledger,
        local=local,
        mirrors=() if local_only else tuple(mirrors),
        overwrite=overwrite,
        absent={} if retry_absent else notes.absent,
        downloads=_download_folder(opened.place),
        retry=retry or RetryRules(),
    )
    run = _Run(plan, arrays, progress)
    interrupted = run.start(rules, num_workers=num_workers, per_host=per_host, silence=silence)
    report = FetchReport(
        store=opened.url,
        skycells=chosen.names,
        padding=chosen.padding,
        arrays=run.outcomes(),
        seconds=time.monotonic() - began,
        interrupted=interrupted,
        notices=(*notices, *filter(None, [chosen.notice, _all_absent(run.outcomes())])),
    )
    if interrupted:
        raise FetchInterrupted(report)
    return report


def _all_absent(outcomes: Sequence[ArrayOutcome]) -> str:
    """Return what to tell where the archive has nothing at all of what was asked for."""
    if not outcomes or any(one.outcome != "absent" for one in outcomes):
        return ""
    return (
        "the archive has nothing of it: if that cannot be, look at the mirrors, and fetch with "
        "retry_absent (--retry-absent)"
    )


def _local_files(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    templates: Sequence[str],
    wanted: bool | None,  # noqa: FBT001 - private
    only: bool,  # noqa: FBT001 - private
) -> tuple[LocalFiles | None, tuple[str, ...]]:
    """Return the files on disk, None where they are not to be used, and what to tell about them."""
    if wanted is False and not only:
        return None, ()
    folders = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not any(Path(folder).is_dir() for folder in folders):
        told = f"there is no folder {' or '.join(map(str, folders))} of local files"
        if only:
            msg = f"only local files are to be used, and {told}: give another"
            raise UsageError(msg)
        return None, (f"{told}: everything is downloaded",) if wanted else ()
    return LocalFiles.of(folders, templates), ()


def _download_folder(place: Place) -> Path:
    """Return where downloads under way lie: beside the store, or in the user's cache."""
    if isinstance(place, LocalPlace):
        return Path(place.root + ".downloads")
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    name = hashlib.sha256(place.url.encode()).hexdigest()[:16]
    return Path(cache) / "idfzarr" / "downloads" / name


def known_absent(store: SkycellStore, *, days: float = ABSENT_DAYS) -> dict[str, str]:
    """Return the arrays that the archive did not have when they were last asked for.

    Parameters
    ----------
    store
        The store, whose ledger knows.
    days
        Older notes do not count.

    Returns
    -------
    dict
        What it said, by the array's path in the store.
    """
    return dict(read_notes(store.place, store.uuid, days=days).absent)


@dataclass(frozen=True)
class _Plan:
    """How arrays are to be fetched."""

    store: SkycellStore
    ledger: Ledger
    local: LocalFiles | None
    mirrors: tuple[str, ...]
    overwrite: bool
    absent: Mapping[str, str]
    downloads: Path
    retry: RetryRules


@dataclass
class _Bytes:
    """Bytes that arrived and bytes that are due."""

    progress: Progress
    arrived: int = 0
    due: int = 0

    def __call__(self, arrived: int, due: int) -> None:
        self.arrived += arrived
        self.due += due
        self.progress("download", self.arrived, max(self.due, self.arrived))


@dataclass
class _Run:
    """A fetch under way: an event loop in a thread of its own, and threads that decode."""

    plan: _Plan
    arrays: Sequence[SkyArray]
    progress: Progress
    done: dict[SkyArray, ArrayOutcome] = field(default_factory=dict)
    full: str = ""

    def outcomes(self) -> tuple[ArrayOutcome, ...]:
        """Return what became of every array so far."""
        return tuple(
            self.done.get(a) or ArrayOutcome(a.name, a.band, a.kind, "pending") for a in self.arrays
        )

    def start(
        self, rules: AddressRules | None, *, num_workers: int, per_host: int, silence: float
    ) -> bool:
        """Fetch everything; return whether Ctrl-C came before the end."""
        self._bytes = _Bytes(self.progress)
        self._downloader: Downloader | None = None
        threads = min(num_workers, len(os.sched_getaffinity(0)) + 1)
        with ThreadPoolExecutor(threads, thread_name_prefix="idfzarr-fetch") as pool:
            self._pool = pool
            return _run_apart(lambda: self._everything(rules, num_workers, per_host, silence))

    async def _everything(
        self, rules: AddressRules | None, num_workers: int, per_host: int, silence: float
    ) -> None:
        waiting = iter(self.arrays)
        self.progress("fetch", 0, len(self.arrays))
        async with contextlib.AsyncExitStack() as stack:
            if rules is not None:
                transport = await stack.enter_async_context(
                    AiohttpTransport(
                        rules,
                        per_host=per_host,
                        connections=num_workers,
                        silence=silence,
                        agent=f"idfzarr/{software()['idfzarr']}",
                    )
                )
                self._downloader = Downloader(
                    transport, rules, retry=self.plan.retry, on_bytes=self._bytes
                )
            async with asyncio.TaskGroup() as group:
                for _ in range(num_workers):
                    group.create_task(self._work(waiting))
        self.progress("fetch", len(self.done), len(self.arrays))
        self._remove_needless()
        with contextlib.suppress(OSError):
            self.plan.downloads.rmdir()  # only where nothing is under way in it

    def _remove_needless(self) -> None:
        """Remove downloads of arrays that are in the store: left by a kill between the two."""
        stored = {file_name(a) for a, outcome in self.done.items() if outcome.stored}
        for path in self.plan.downloads.glob("*.part"):
            if path.stem not in stored:
                continue
            with contextlib.suppress(OSError):  # no plain file: none of ours
                part = Part.take(self.plan.downloads, path.stem)
                if part is not None:
                    with part:
                        part.remove()

    async def _work(self, waiting: Iterable[SkyArray]) -> None:
        for array in waiting:
            began = time.monotonic()
            outcome = await self._one(array)
            self.done[array] = ArrayOutcome(
                array.name,
                array.band,
                array.kind,
                outcome.outcome,
                outcome.source,
                outcome.why,
                outcome.n_bytes,
                time.monotonic() - began,
            )
            self.progress("fetch", len(self.done), len(self.arrays))

    async def _one(self, array: SkyArray) -> ArrayOutcome:
        """Fetch one array; whatever goes wrong is told, not raised."""
        if self.full:
            return _outcome(array, "failed", why=self.full)
        try:
            return await self._fetched(array)
        except StorageFull as error:
            self.full = str(error)
            return _outcome(array, "failed", why=str(error))
        except Exception as error:  # noqa: BLE001 - one array must not take the others along
            return _outcome(array, "failed", why=f"{type(error).__name__}: {error}")

    async def _fetched(self, array: SkyArray) -> ArrayOutcome:
        plan = self.plan
        if not plan.overwrite and await self._in_store(array):
            return _outcome(array, "skipped")
        local, why = await self._call(lambda: self._from_disk(array))
        if local:
            return _outcome(array, "local", source=local, why=why)
        if self._downloader is None:
            return _outcome(array, "failed", why=why or "no local file is it")
        if array.path in plan.absent:
            return _outcome(array, "absent", why=plan.absent[array.path])
        return await self._downloaded(array, self._downloader, why)

    async def _in_store(self, array: SkyArray) -> bool:
        return await self._call(lambda: self.plan.store.has(array.name, array.band, array.kind))

    def _from_disk(self, array: SkyArray) -> tuple[str, str]:
        """Store an array from the first file that holds it; return its path, and why no other."""
        local = self.plan.local
        why: list[str] = []
        for path in local.candidates(array) if local is not None else ():
            try:
                with opened_inside(path, local.roots if local else ()) as handle:
                    changed = datetime.fromtimestamp(os.fstat(handle).st_mtime, UTC)
                    image = read_served(handle, array, where=str(path))
                told = {"source": "local", "path": str(path.absolute())}
                told["last_modified"] = changed.isoformat(timespec="seconds")
                self._store(array, image, told)
            except ImageError as error:
                why.append(str(error))
            else:
                return str(path), "; ".join(why)
        return "", "; ".join(why)

    def _store(self, array: SkyArray, image: ServedImage, told: dict[str, Any]) -> None:
        provenance = told | {
            "size": image.size,
            "sha256": image.sha256,
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
            "software": software()["idfzarr"],
        }

        def write(*, replace: bool) -> None:
            self.plan.store.write(
                array.name,
                array.band,
                array.kind,
                image.pixels,
                cards=image.cards,
                primary_cards=image.primary_cards,
                tiles=image.tiles,
                provenance=provenance,
                replace=replace,
            )

        try:
            write(replace=self.plan.overwrite)
        except StoreExists:  # there, and damaged
            write(replace=True)

    async def _downloaded(
        self, array: SkyArray, downloader: Downloader, before: str
    ) -> ArrayOutcome:
        part = await self._taken(array)
        if part is None:
            return _outcome(array, "skipped", why="another process stored it meanwhile")
        urls = [address_of(mirror, array) for mirror in self.plan.mirrors]

        async def accept(part: Part) -> None:
            await self._call(lambda: self._accept(array, part))

        with part:
            try:
                done = await downloader.fetch(urls, part, accept)
            except NotDownloaded as error:
                why = "; ".join(filter(None, [before, str(error)]))
                if error.absent or not part.note.resumable:
                    part.remove()
                if error.absent:
                    await self._call(partial(self._note_absent, array, error))
                ended = "absent" if error.absent else "failed"
                return _outcome(array, ended, why=why, n_bytes=error.received)
            except (IdfzarrError, OSError):
                raise  # the store's trouble, not the file's: what came is kept
            except Exception:
                part.remove()  # whatever it is must not come again with the same bytes
                raise
            part.remove()
        tried = "; ".join(filter(None, [before, *map(str, done.attempts)]))
        return _outcome(array, "downloaded", source=done.note.url, why=tried, n_bytes=done.received)

    async def _taken(self, array: SkyArray) -> Part | None:
        """Return the array's download, once no other process has it; None if one stored it."""
        while True:
            part = await self._call(lambda: Part.take(self.plan.downloads, file_name(array)))
            stored = not self.plan.overwrite and await self._in_store(array)
            if part is not None and stored:
                with part:
                    part.remove()
                return None
            if part is not None or stored:
                return part
            await asyncio.sleep(_POLL)

    def _accept(self, array: SkyArray, part: Part) -> None:
        note = part.note
        image = read_served(part.handle, array, where=note.url, sha256=note.sha256)
        told = {"source": "download", "url": note.url}
        told |= {"etag": note.etag, "last_modified": note.last_modified}
        self._store(array, image, told)

    def _note_absent(self, array: SkyArray, error: NotDownloaded) -> None:
        first = error.attempts[0]
        said = next((a for a in error.attempts if a.status in {404, 410}), first)
        note_absent(self.plan.ledger, array, said)

    async def _call(self, work: Callable[[], T]) -> T:
        """Run something that takes long in a thread, and never leave it behind."""
        future: Future[T] = self._pool.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # What runs uses an open file: it comes to its end before that is closed.
            ending = asyncio.wrap_future(future)
            await asyncio.wait([ending])
            if not ending.cancelled():
                ending.exception()  # looked at, and of no use to anybody now
            raise


def _outcome(array: SkyArray, outcome: Any, **told: Any) -> ArrayOutcome:
    return ArrayOutcome(array.name, array.band, array.kind, outcome, **told)


def _run_apart(work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Run a coroutine in a thread of its own, so that a notebook's event loop is not in the way.

    Returns
    -------
    bool
        Whether Ctrl-C came: then the coroutine has been cancelled, and has cleaned up. At a second
        one nothing is waited for.
    """
    failure: list[BaseException] = []
    loop = asyncio.new_event_loop()
    task: list[asyncio.Task[None]] = []

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            task.append(loop.create_task(work()))
            loop.run_until_complete(task[0])
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    thread = threading.Thread(target=run, name="idfzarr-fetch", daemon=True)
    interrupted = False
    try:
        thread.start()
        thread.join()
    except KeyboardInterrupt:
        interrupted = True
        with contextlib.suppress(RuntimeError):  # it came to its end by itself
            loop.call_soon_threadsafe(lambda: task[0].cancel() if task else None)
        thread.join()
    if failure and not (interrupted and isinstance(failure[0], asyncio.CancelledError)):
        raise failure[0]
    return interrupted


def download_and_store_ps1_data(
    sector: int = 20,
    camera: int = 3,
    ccd: int = 3,
    num_workers: int = 8,
    zarr_output_dir: str | os.PathLike[str] = "data/ps1_skycells_zarr",
    *,
    use_local_files: bool = False,
    local_data_path: str | os.PathLike[str] = LOCAL_DATA,
    overwrite: bool = False,
    log_level: str = "ERROR",
    **options: Any,
) -> dict[str, Any]:
    """Fetch the skycells of a CCD, as the earlier toolkit's function of this name did.

    Parameters
    ----------
    sector, camera, ccd
        The CCD. Its master list is read where it lies at the earlier toolkit's place below
        ``data/skycell_pixel_mapping``; else skycells are chosen by overlap, with neighbours.
    num_workers
        Arrays at once.
    zarr_output_dir
        Folder of the store ``ps1_skycells.zarr``.
    use_local_files, local_data_path, overwrite
        As of `fetch_skycells`.
    log_level
        Taken so that calls keep working: this function sets up no logging.
    **options
        Any others of `fetch_skycells`; bands are rizy unless given.

    Returns
    -------
    dict
        See `FetchReport.to_dict`.

    Raises
    ------
    UsageError, StoreError, FetchInterrupted
        As of `fetch_skycells`.
    """
    del log_level
    listed = Path(_LIST.format(sector, camera, ccd), _LIST_NAME.format(sector, camera, ccd))
    by_ccd = {"sector": sector, "camera": camera, "ccd": ccd, "padding": True}
    which: dict[str, Any] = {"csv": listed} if listed.is_file() else by_ccd
    report = fetch_skycells(
        Path(zarr_output_dir) / "ps1_skycells.zarr",
        num_workers=num_workers,
        use_local_files=use_local_files,
        local_data_path=local_data_path,
        overwrite=overwrite,
        **{"bands": "rizy", **which, **options},
    )
    return report.to_dict()
