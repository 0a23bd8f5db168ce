"""The states of a trial."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.StrEnum):
    """Where a trial stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"
    PRUNED = "PRUNED"


FINISHED: Final = frozenset({State.COMPLETE, State.FAILED, State.PRUNED})
