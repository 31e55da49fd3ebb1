"""What takes too long ends, and says where it stood."""

import subprocess
import sys
import time

import pytest

from pipeline.core.timeout import time_limit

SCRIPT = """
import ctypes, sys, time
from pipeline.core import timeout as watch

watch.BACKSTOP_S = 1.0

def stuck(sleep):
    sleep(1000)

with watch.time_limit(0.2, print):
    stuck({sleep})
print("past it")
"""


@pytest.mark.parametrize("sleep", ["time.sleep", "ctypes.PyDLL(None).sleep"])
def test_a_process_that_hangs_ends_and_says_where(sleep: str) -> None:
    done = subprocess.run(
        [sys.executable, "-u", "-c", SCRIPT.format(sleep=sleep)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "past it" not in done.stdout
    holds_lock = "PyDLL" in sleep
    assert ("in stuck" in done.stdout) == (not holds_lock)
    assert ("in stuck" in done.stderr) == holds_lock, "the backstop tells it"


def test_what_is_quick_enough_goes_on() -> None:
    told: list[str] = []
    for seconds in (0, 0.2):
        with time_limit(seconds, told.append):
            pass
    time.sleep(0.4)  # past the limit: this process lives
    assert not told
