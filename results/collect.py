"""`python -m results.collect <folder>...`: write the index of each sweep. To call it, use `results.collect(folder)`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from results.show import collect_main

    sys.exit(collect_main())
