"""A measured process: takes its cores, then calls one function. Started by `harness.call_in_process`."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def main(request: str) -> None:
    """Do what a JSON request says: `function`, `arguments`, `cores`, and the file for the `result`."""
    asked = json.loads(request)
    os.sched_setaffinity(0, asked["cores"])
    from jax_party.runtime import prepare_process

    prepare_process()
    module, _, name = asked["function"].partition(":")
    result = getattr(importlib.import_module(module), name)(**asked["arguments"])
    Path(asked["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
