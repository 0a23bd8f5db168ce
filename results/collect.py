"""`python -m results.collect <folder>...`: write the index of each sweep.

In Python: `results.write_index(folder)`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from results.command import collect_main

    sys.exit(collect_main())
