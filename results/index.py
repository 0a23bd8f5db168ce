"""`python -m results.index <folder>`: print the best rows of a sweep's index.

In Python: `results.load_index(folder)`. What is in it is decided in `results.collector.trial_rows` and
`results.collector.index_columns`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from results.command import show_main

    sys.exit(show_main())
