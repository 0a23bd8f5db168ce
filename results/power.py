"""`python -m results.power <folder>`: print how many seeds would separate the two best configurations."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from results.analysis.power import main

    sys.exit(main())
