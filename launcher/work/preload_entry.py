"""An entry point, not a module to import: Ray runs it, by importing it, in each worker process as that starts.

`RAY_preload_python_modules` names it (`launcher.machine.preloading`); what to load stands in `JAX_PARTY_PRELOAD`.
"""

from __future__ import annotations

import json
import os

from launcher.machine.preloading import VARIABLE
from launcher.work.preload import preload

preload(json.loads(os.environ[VARIABLE]))
