"""An entry point, not a library module: Ray runs it by importing it in each worker process when that starts.

`RAY_preload_python_modules` names it (`launcher.machine.preloading`); `JAX_PARTY_PRELOAD` says what to load.
"""

from __future__ import annotations

import json
import os

from launcher.machine.preloading import VARIABLE
from launcher.work.preload import preload

preload(json.loads(os.environ[VARIABLE]))
