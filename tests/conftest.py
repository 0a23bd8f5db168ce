"""What every test process has: the persistent compilation cache, so that a program compiles once for all tests."""

from __future__ import annotations

from jax_party.runtime import prepare_process

prepare_process()
