"""What a process gives back."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from jax_party.runtime import return_freed_memory

BLOCK, BLOCKS = 64 * 1024, 4096
"""Below the size from which on glibc maps memory by itself and returns it when it is freed; 256 MB in all."""


def _resident() -> int:
    """Bytes of this process that are in memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[:-1]:  # the last one is on top of the others: glibc keeps what lies below it
        libc.free(block)
    before = _resident()
    return_freed_memory()
    after = _resident()
    libc.free(blocks[-1])
    assert before - after > BLOCK * BLOCKS // 2
