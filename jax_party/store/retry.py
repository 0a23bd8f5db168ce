"""Retries while storage refuses: which errors are refusals, and for how long to retry.

A full disk, a quota, a share whose server restarts: writing fails, and the same write succeeds a minute later. Whoever
writes tries again with growing pauses, and gives up after `PATIENCE_S` seconds of waiting. Needs neither JAX nor Ray.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final

import tenacity

from jax_party.errors import StorageError

PATIENCE_S: Final = 300.0
PATIENCE_VARIABLE: Final = "JAX_PARTY_STORAGE_PATIENCE_S"
MOST_PATIENCE_S: Final = 86_400.0
LONGEST_PAUSE_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.5
_PAUSES: Final = tenacity.wait_exponential(multiplier=_FIRST_PAUSE_S, max=LONGEST_PAUSE_S)
_at_most_s: ContextVar[float] = ContextVar("at_most_s", default=math.inf)

_REFUSALS: Final = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EREMOTEIO,
})  # fmt: skip
# TensorStore's errors, which Orbax and vaults pass on, are ValueErrors that hold the number as text.
_OS_ERROR_CODE: Final = re.compile(r"\[os_error_code='(\d+)'\]")


def patience_s() -> float:
    """Return for how many seconds to retry: `PATIENCE_S`, unless the environment sets another value.

    Raises:
      StorageError: the environment holds no valid number.
    """
    text = os.environ.get(PATIENCE_VARIABLE) or str(PATIENCE_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MOST_PATIENCE_S:
        raise StorageError(f"{PATIENCE_VARIABLE}={text}: expected seconds, a number from 0 to {MOST_PATIENCE_S:g}")
    return seconds


def limit_s() -> float:
    """Return for how many seconds this thread retries: `patience_s()`, or less inside `patience_of`."""
    return min(patience_s(), _at_most_s.get())


@contextlib.contextmanager
def patience_of(seconds: float) -> Iterator[None]:
    """Limit retries of this thread to `seconds`."""
    before = _at_most_s.set(seconds)
    try:
        yield
    finally:
        _at_most_s.reset(before)


def refusal(error: BaseException | None) -> str | None:
    """Return the system's message if the error, or one of its causes, is a refusal by storage; None otherwise."""
    for one in _chain(error):
        if isinstance(one, StorageError):
            return None
        code = one.errno if isinstance(one, OSError) else _code_in(str(one))
        if code in _REFUSALS:
            return os.strerror(code)
    return None


def patiently(
    refused: Callable[[BaseException], str | None] = refusal,
    before_pause: Callable[[BaseException], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    wait: tenacity.wait.wait_base = _PAUSES,
    with_calls: bool = False,
) -> tenacity.Retrying:
    """Return a retrier: `patiently()(write, path, text)` retries while refused, then raises the last refusal.

    Args:
      refused: returns the reason if an error is a refusal, None to raise it at once.
      before_pause: called with each refusal, before the pause.
      sleep: waits for a number of seconds.
      wait: tenacity's wait strategy.
      with_calls: whether the time of the calls counts towards the limit, not only the pauses.
    """

    def told(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if before_pause is not None and error is not None:
            before_pause(error)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: refused(error) is not None),
        wait=wait,
        stop=lambda state: ((state.seconds_since_start or 0.0) if with_calls else state.idle_for) >= limit_s(),
        before_sleep=told,
        sleep=sleep,
        reraise=True,
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _code_in(text: str) -> int | None:
    found = _OS_ERROR_CODE.search(text)
    return int(found[1]) if found else None
