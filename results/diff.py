"""`python -m results.diff A B`: print what differs between two trials, or two sweeps.

In Python: `results.differences(a, b)`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from results.analysis.diff import main

    sys.exit(main())
