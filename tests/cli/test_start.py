"""What the command line sets before anything is loaded."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SHOWN = """
import os, runpy, sys
sys.argv = ["deckbench", "--version"]
try:
    runpy.run_module("deckbench", run_name="__main__")
finally:
    print("numpy" in sys.modules, os.environ.get("OPENBLAS_NUM_THREADS"))
"""


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="elsewhere torch shares the library")
@pytest.mark.parametrize(("given", "threads"), [(None, "1"), ("3", "3")])
def test_blas_has_one_thread_unless_the_user_says_otherwise(given: str | None, threads: str) -> None:
    env = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    if given is not None:
        env["OPENBLAS_NUM_THREADS"] = given
    run = subprocess.run([sys.executable, "-c", SHOWN], env=env, capture_output=True, text=True, timeout=120)
    assert run.stdout.splitlines()[-1] == f"False {threads}", run.stderr
