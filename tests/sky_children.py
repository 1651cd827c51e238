"""Fetches, migrations and extractions in children that are killed there."""

from __future__ import annotations

from child_server import FORKING, ChildServer

SERVER = (
    """
import json, os, signal, sys, time
import aiohttp
from idfzarr.care.extract import extract_many
from idfzarr.care.migrate import migrate
from idfzarr.ps1 import partial, transport
from idfzarr.ps1.download import RetryRules
from idfzarr.ps1.fetch import fetch_skycells
import astropy.io.fits, zarr, idfzarr.care.inventory, idfzarr.imaging.fits_image

def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

def arm(moment, log):
    # Die before (odd moments) or after (even ones) a rename; note all of them.
    def watched(real):
        def call(*arguments, **options):
            with open(log, "a") as file:
                file.write(f"{arguments[1]}\\n")
            nonlocal moment
            moment -= 1
            if moment == 0:
                die()
            result = real(*arguments, **options)
            moment -= 1
            if moment == 0:
                die()
            return result
        return call
    os.replace, os.rename = watched(os.replace), watched(os.rename)

def run(asked):
    what, how = asked["what"], asked["how"]
    if "moment" in asked:
        arm(asked["moment"], asked["log"])
    if what == "migrate":
        return 0 if migrate(**how).ok else 1
    if what == "extract":
        return int(any(one.result == "failed" for one in extract_many(**how)))
    partial.BLOCK = asked["block"]
    retry = RetryRules(attempts=4, first_wait=0.01, seconds=60)
    return 0 if fetch_skycells(**how, retry=retry).ok else 1
"""
    + FORKING
)


_OF_THE_SERVER = {"moment", "log", "block"}


class SkyServer(ChildServer):
    """Runs one thing after the other, each in a child that has everything imported."""

    def __init__(self):
        super().__init__("-c", SERVER)

    def begin(self, what, *, after=None, **asked):
        """Start something; ``after`` so many seconds, or at a ``moment``, it is killed."""
        how = {name: asked.pop(name) for name in list(asked) if name not in _OF_THE_SERVER}
        self.ask({"what": what, "how": how, "after": after, **asked})

    def run(self, what, **asked):
        """Run something to its end; return how it ended, -9 where it was killed."""
        self.begin(what, **asked)
        return self.answer()


def renames(log):
    """Return how many renames a child noted."""
    return len(log.read_text().splitlines())
