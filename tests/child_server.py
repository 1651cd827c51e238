"""A child that imports the package once and answers a line of JSON with another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import idfzarr

FORKING = """
import json, os, signal, sys, time, traceback

print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = run(asked)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if asked.get("after") is not None:
        time.sleep(asked["after"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
"""
"""End of a program with a function ``run(asked)``: forks for every line; kills ``after`` a time."""


def environment():
    """Return the environment of a child that imports this package and computes in one thread."""
    source = Path(idfzarr.__file__).parents[1]
    single = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **single, "PYTHONPATH": str(source)}


class ChildServer:
    """Runs a Python program that says ``ready`` and then answers every line."""

    def __init__(self, *program, cwd=None):
        self.process = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=environment(),
        )
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, asked):
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
