"""The states of a trial."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.StrEnum):
    """The state of a trial."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"
    PRUNED = "PRUNED"


FINISHED: Final = frozenset({State.COMPLETE, State.FAILED, State.PRUNED})
