"""`python -m results.report <folder>`: write a sweep's report. In Python: `results.report.write_report(folder)`."""

from __future__ import annotations

import sys

from results.report.write import main

if __name__ == "__main__":
    sys.exit(main())
