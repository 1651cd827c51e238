"""Pictures of every page of the viewer, in light and dark, for the README and for one's own eyes.

``python tests/screenshots.py STORE FOLDER`` opens a store as a person would and writes
``{page}-{light|dark}-{width}.png`` for the widths of a small screen and of a large one. The picture
in the README, ``notebooks/viewer.png``, is ``look-light-1280.png`` of what ``idfzarr demo`` builds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from viewer_browser import Visit, chromium, serving

from idfzarr.viewer.state import PAGES

WIDTHS = {1280: 900, 1920: 1080}


def take(store: Path, folder: Path, *, pages=PAGES, widths=WIDTHS, **choices) -> list[Path]:
    """Take the pictures, and return where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with serving(store) as served, chromium() as browser:
        for width in widths:
            for shade in ("light", "dark"):
                visit = Visit(browser, width=width, height=WIDTHS[width])
                for page in pages:
                    dark = {"dark": "true"} if shade == "dark" else {}
                    visit.open(served.address(page=page, **dark, **choices))
                    visit.page.wait_for_timeout(1500)  # what follows on its own: periods, stamps
                    visit.page.get_by_text("is being looked at").wait_for(state="hidden")
                    visit.settle()
                    path = folder / f"{page}-{shade}-{width}.png"
                    visit.page.screenshot(path=path)
                    taken.append(path)
                assert visit.foreign == []
                visit.context.close()
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--object", type=int, help="the object that is shown")
    asked = parser.parse_args()
    chosen = {} if asked.object is None else {"object": asked.object}
    for one in take(asked.store, asked.folder, **chosen):
        sys.stdout.write(f"{one}\n")
