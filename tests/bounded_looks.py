"""Inventories in processes of bounded memory and time; run as a program, it serves one by one."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time

from child_server import ChildServer

MOST_SECONDS = 60
ADDRESS_SPACE = 3 << 30


class Looks(ChildServer):
    """Looks at stores; what comes back is how it ended, what was found, memory and time."""

    def __init__(self):
        super().__init__(__file__)

    def at(self, store, level):
        self.ask([os.fspath(store), level])
        return self.answer()


def serve():
    from idfzarr.care.inventory import inventory

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        store, level = json.loads(line)
        reader, writer = os.pipe()
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(reader)
            look(inventory, store, level, writer)
        os.close(writer)
        status, used = wait(child, begun)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read()
        told = json.loads(said) if said else {}
        told |= {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - begun,
            "mebibytes": used.ru_maxrss / 1024,
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def wait(child, begun):
    """Wait for a child, and end it when its time is over."""
    while True:
        found, status, used = os.wait4(child, os.WNOHANG)
        if found:
            return status, used
        if time.monotonic() - begun > MOST_SECONDS:
            os.kill(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            return status, used
        time.sleep(0.01)


def look(inventory, store, level, writer):
    """Take an inventory, say what it found, and end this process."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    code = 70
    try:
        found = inventory(store, level=level)
        kinds = sorted({f.kind for f in found.findings})
        words = [f"{f.kind} {f.severity} {f.where}: {f.message}"[:300] for f in found.findings[:20]]
        told = {
            "kinds": kinds,
            "trouble": found.exit_code,
            "n_findings": len(found.findings),
            "words": words,
            "shown": str(found)[:20000],
        }
        data = json.dumps(told).encode()
        while data:
            data = data[os.write(writer, data[: 1 << 12]) :]
        code = 0
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told
        os.write(writer, json.dumps({"error": repr(error)[:2000]}).encode())
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
