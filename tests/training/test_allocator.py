import platform
import subprocess
import sys

from gsae.training.allocator import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from gsae.training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    if _ == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(10_000_000, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(argument):
    return int(subprocess.run([sys.executable, "-c", FAULTS, argument], capture_output=True, check=True).stdout)


def test_freed_memory_is_used_again_without_page_faults():
    if platform.libc_ver()[0] != "glibc":
        assert keep_freed_memory() is False
        return
    assert faults("keep") < 1000 or faults("keep") < faults("plain") / 10
