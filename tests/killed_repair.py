"""Repairs in processes that can be killed: run as a program, it serves one after another.

The package is imported once; every repair is a forked child, which kills itself at the n-th call
that changes the disk, as a machine that goes down would stop it between any two steps.
"""

from __future__ import annotations

import json
import os
import sys

from child_server import ChildServer


class Repairs(ChildServer):
    """Runs repairs; ``run(store, at)`` returns the exit code and how many steps there were."""

    def __init__(self):
        super().__init__(__file__)

    def run(self, store, at=0):
        self.ask({"store": str(store), "at": at})
        return self.answer()


def serve():
    import growing  # noqa: F401 - what is imported here is there in every child

    import idfzarr.build.pipeline
    import idfzarr.care.inventory
    import idfzarr.care.repair  # noqa: F401

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            mend(asked["store"], asked["at"], writer)
        os.close(writer)
        _, status = os.waitpid(child, 0)
        steps = os.read(reader, 100).decode()
        os.close(reader)
        told = {"code": os.waitstatus_to_exitcode(status), "steps": int(steps or 0)}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def mend(store, at, writer):
    """Repair a store and end this process."""
    from growing import Killer

    from idfzarr.care.inventory import inventory
    from idfzarr.care.repair import plan_repair

    code, write = 70, os.write
    try:
        plan = plan_repair(inventory(store, level="full"))
        killer = Killer(at)
        plan.apply()
        write(writer, str(killer.count).encode())
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
