"""Print a system's full name: `python -m mava_configs mappo` prints `ff_mappo`."""

from __future__ import annotations

import sys

from jax_party.errors import ConfigError
from mava_configs import resolve_algorithm

if __name__ == "__main__":
    try:
        sys.stdout.write(resolve_algorithm(sys.argv[1]) + "\n")
    except ConfigError as error:
        sys.exit(f"ConfigError: {error}")
