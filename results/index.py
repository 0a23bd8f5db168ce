"""`python -m results.index <folder>`: print the best rows of a sweep's index.

In Python: `results.load_index(folder)`. What is in the index is decided in `results.collector`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from results.command import show_main

    sys.exit(show_main())
