"""The maximum number of trials in a sweep."""

from __future__ import annotations

from jax_party.errors import SweepError

MOST_TRIALS = 1_000_000
"""The most trials that a search may have; tests of winners are numbered from here on."""


def check_number(num_trials: int, samples: int) -> None:
    """Refuse more trials than a sweep can number.

    Raises:
      SweepError: there would be too many; the message says how many.
    """
    if num_trials > MOST_TRIALS:
        raise SweepError(f"SAMPLES={samples}: would make {num_trials:,} trials; a sweep has at most {MOST_TRIALS:,}")
