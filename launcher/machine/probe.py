"""Inspect a Ray cluster in a separate process: `python -m launcher.machine.probe <address> <request>`.

Ray tries for minutes to reach a head or to authenticate, and cannot be interrupted; a process can be killed. It prints
one line of JSON when it is connected, and one that describes the nodes.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

LOOK_LIMIT_S = 120.0


def look(packages: Sequence[str], marker: str | None) -> dict[str, Any]:
    """Describe the node that this runs on. None of our code is there yet, so it needs only Python.

    Args:
      packages: the packages whose versions to return.
      marker: a file that exists on every node that shares its folder; None if there is none.
    """
    import importlib.metadata
    import importlib.util
    import os
    import platform

    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "versions": versions,
        "cuda": any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)),
        "sees": marker is not None and os.path.exists(marker),  # noqa: PTH110
    }


def main(arguments: Sequence[str]) -> int:
    """Connect, and query every node with a CPU."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    address, request = arguments[0], json.loads(arguments[1])
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    print(json.dumps({"connected": True}), flush=True)
    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    ask = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(**request)
        for node in alive
    ]
    ray.wait(asked, num_returns=len(asked), timeout=LOOK_LIMIT_S) if asked else None
    found = []
    for node, reference in zip(alive, asked, strict=True):
        place = {"name": node["NodeManagerHostname"], "ip": node["NodeManagerAddress"]}
        resources = {"cpus": int(node["Resources"]["CPU"]), "gpus": int(node["Resources"].get("GPU", 0))}
        try:
            answer = ray.get(reference, timeout=0.1)
        except Exception as error:
            answer = {"problem": " ".join(str(error).split())[-300:] or type(error).__name__}
        found.append({**place, **resources, **answer})
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
