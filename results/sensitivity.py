"""`python -m results.sensitivity <folder>`: print the sensitivity card of a sweep.

In Python: `results.sensitivity_card(folder)`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from results.analysis.sensitivity import main

    sys.exit(main())
