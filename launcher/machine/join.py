"""Join a running Ray cluster: what it has, whether it can run our trials, and how our code gets there."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import re
import selectors
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from rich.console import Console

from jax_party.errors import SweepError
from jax_party.store.storage import store_of
from jax_party.trial.manifest import MANIFEST_FILE
from jax_party.trial.provenance import PACKAGES, current_provenance
from launcher.ask.experiment_factory import EXPERIMENT_VARIABLE
from launcher.machine.crew import Machine
from launcher.machine.probe import LOOK_LIMIT_S
from launcher.machine.token import has_token
from launcher.show.console import plain

CONNECT_LIMIT_S: Final = 15.0
NODES_WAIT_S: Final = 900.0
NODES_LOOK_S: Final = 5.0
OUR_PACKAGES: Final = ("jax_party", "mava_configs", "sweeps", "launcher", "results")
CHECKED: Final = tuple(name for name in PACKAGES if name != "jax-party")  # our own code is sent along
PASSED_ON: Final = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION")
"""Variables that workers need, besides all `JAX_PARTY_*`. Everyone with access to the cluster sees them: no secrets."""


@dataclass(frozen=True)
class Node:
    """A node of the cluster that has CPUs for workers.

    Attributes:
      name, ip: its machine's host name and address.
      cpus, gpus: the number that Ray assigns there.
      python, versions: the installed versions of Python and the packages.
      cuda: whether its JAX can use GPUs.
      sees: whether it has access to the sweep's folder.
      problem: why it could not be queried, or None.
    """

    name: str
    ip: str
    cpus: int
    gpus: int
    python: str = ""
    versions: Mapping[str, str | None] | None = None
    cuda: bool = False
    sees: bool = False
    problem: str | None = None

    def __str__(self) -> str:
        return f"node {self.name} ({self.ip})"


def find_cluster(address: str, folder: Path, shared: bool) -> Machine:
    """Inspect the cluster and check that it can run a sweep in this folder.

    Args:
      address: `auto`, `host:port` or `ray://host:port`.
      folder: the sweep's folder, or the one that holds sweep folders; it need not exist yet.
      shared: whether the user says that all nodes have access to the folder.

    Returns:
      The cluster as a machine.

    Raises:
      SweepError: the cluster does not answer, refuses the token, or has nodes with other versions or without access to
        the folder.
    """
    if not has_token():
        raise SweepError(
            f"ADDRESS={address}: there is no token for it; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        )
    _check_reachable(address)
    nodes = _nodes(address, folder)
    for node in nodes:
        if node.problem:
            raise SweepError(f"ADDRESS={address}: {node} does not answer ({node.problem}); fix or remove it")
        refuse_other_versions(str(node), node.python, node.versions or {}, our_versions())
    _check_folder(address, folder, shared, nodes)
    return _as_machine(nodes)


def _nodes(address: str, folder: Path) -> list[Node]:
    """Return the nodes with CPUs; wait for the first one, because a cluster that was just started may have none.

    Raises:
      SweepError: the cluster does not answer, or no node has joined in time.
    """
    until = time.monotonic() + NODES_WAIT_S
    told = False
    while True:
        with _marker(folder) as marker:
            found = _probe(address, {"packages": CHECKED, "marker": marker})
        if found:
            return [Node(**node) for node in found]
        if time.monotonic() >= until:
            raise SweepError(
                f"ADDRESS={address}: no node with a CPU has joined the cluster within {NODES_WAIT_S / 60:g} minutes; "
                "add nodes"
            )
        if not told:
            told = True
            plain(
                Console(stderr=True),
                f"ADDRESS={address}: no node has a CPU to work with yet; waiting up to {NODES_WAIT_S / 60:g} minutes "
                "for one to join (Ctrl-C to stop)",
            )
        time.sleep(NODES_LOOK_S)


def our_versions() -> dict[str, str | None]:
    """Return our versions of Python and the packages, which workers must have too."""
    here = current_provenance()["versions"]
    return {"Python": platform.python_version(), **{name: here[name] for name in CHECKED}}


def refuse_other_versions(
    node: str, python: str, there: Mapping[str, str | None], here: Mapping[str, str | None]
) -> None:
    """Refuse a node whose Python (except the patch version) or packages differ from ours.

    Raises:
      SweepError: versions differ; the message names the node and the differences.
    """
    theirs, ours = {"Python": _minor(python), **there}, {**here, "Python": _minor(here["Python"] or "")}
    different = [
        f"{name} {theirs.get(name) or 'is missing'}, here {version or 'absent'}"
        for name, version in ours.items()
        if theirs.get(name) != version
    ]
    if different:
        raise SweepError(f"{node}: {'; '.join(different)}; install the same requirements there")


class NodeRefused(SweepError):
    """A node cannot run the sweep's trials; they continue on other nodes.

    Args:
      reason: why it cannot.
      node_id: Ray's id of the node.
    """

    def __init__(self, reason: str, node_id: str) -> None:
        super().__init__(reason, node_id)
        self.node_id = node_id

    def __str__(self) -> str:
        return str(self.args[0])


def check_worker(here: Mapping[str, str | None], sweep: Path) -> None:
    """Refuse to work on this node if its versions differ from the driver's, or it has no access to the sweep's folder.

    The driver cannot have checked nodes that joined later, so each worker checks its own.

    Raises:
      NodeRefused: the node is not usable; the message names it and the reason.
    """
    import ray

    there = current_provenance()
    try:
        refuse_other_versions(f"node {there['host']}", there["python"], there["versions"], here)
        if store_of(sweep).on_disk(sweep) is not None and not (sweep / MANIFEST_FILE).is_file():
            raise SweepError(f"node {there['host']} does not see {sweep}; give a path that all nodes share")
    except SweepError as error:
        raise NodeRefused(str(error), ray.get_runtime_context().get_node_id()) from error


def runtime_env() -> dict[str, Any]:
    """Return the runtime environment that sends our code and the variables that workers need to every node."""
    names = [*OUR_PACKAGES]
    if chosen := os.environ.get(EXPERIMENT_VARIABLE):
        names.append(chosen.partition(":")[0].partition(".")[0])
    variables = {
        name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("JAX_PARTY_")
    }
    return {
        "py_modules": [_folder_of(name) for name in dict.fromkeys(names)],
        "excludes": ["**/__pycache__"],
        "env_vars": variables,
    }


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SweepError(f"{package}: is not a package that can be sent to the nodes; make it importable here")
    return str(Path(next(iter(spec.submodule_search_locations))).resolve())


def _as_machine(nodes: list[Node]) -> Machine:
    gpus = [node.gpus if node.cuda else 0 for node in nodes]
    unused = sum(node.gpus for node in nodes) - sum(gpus)
    note = f"{unused} GPUs are not used: JAX has no CUDA plugin there" if unused else None
    parts = tuple(Machine(tuple(range(node.cpus)), of_node) for node, of_node in zip(nodes, gpus, strict=True))
    return Machine(tuple(range(sum(node.cpus for node in nodes))), sum(gpus), note, parts)


def _check_reachable(address: str) -> None:
    """Check that something listens at the address, because Ray itself would keep trying for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_LIMIT_S - 5.0):
            pass
    except OSError as error:
        raise SweepError(
            f"ADDRESS={address}: nothing answers there ({error.strerror or error}); start the cluster, or correct it"
        ) from error


def _probe(address: str, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run `launcher.machine.probe`, kill it if it takes too long, and return what it says about each node."""
    command = [sys.executable, "-m", "launcher.machine.probe", address, json.dumps(request)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None and process.stderr is not None
    said: dict[str, bytes] = {"out": b"", "err": b""}
    until = [time.monotonic() + CONNECT_LIMIT_S]
    try:
        for name, part in _parts(process.stdout, process.stderr, until):
            said[name] += part
            if b"InvalidAuthToken" in said["err"] or b"Unauthenticated" in said["err"]:
                raise SweepError(
                    f"ADDRESS={address}: the cluster refuses the token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH "
                    "to the cluster's"
                )
            if name == "out" and b"connected" in said["out"]:
                until[0] += LOOK_LIMIT_S
        if process.poll() is None and time.monotonic() >= until[0]:
            raise SweepError(
                f"ADDRESS={address}: no Ray lets us in there within {CONNECT_LIMIT_S:.0f} s; is that the head's port, "
                "and the token the cluster's?"
            )
        if process.wait(5.0) != 0:
            raise SweepError(f"ADDRESS={address}: {_last_line(said['err'])}")
        answer: list[dict[str, Any]] = json.loads(said["out"].splitlines()[-1])
        return answer
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _parts(out: IO[bytes], err: IO[bytes], until: list[float]) -> Iterator[tuple[str, bytes]]:
    """Yield a process's output, as (stream, bytes), while it arrives, until the process ends or time is up."""
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ, "out")
        selector.register(err, selectors.EVENT_READ, "err")
        while selector.get_map() and (left := until[0] - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                part = os.read(key.fd, 65_536)
                if part:
                    yield key.data, part
                else:
                    selector.unregister(key.fileobj)


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    line = (errors or lines or ["it cannot be joined"])[-1]
    if "Could not find any running Ray instance" in line:
        return "no Ray cluster runs on this machine; name its head: ADDRESS=host:6379"
    return re.sub(r"\s+", " ", line)[:300]


@contextlib.contextmanager
def _marker(folder: Path) -> Iterator[str | None]:
    """Create a file for nodes to look for, in the folder or its closest existing parent; None if it is not writable."""
    place = store_of(folder).on_disk(store_of(folder).absolute(folder))
    if place is None:
        yield None
        return
    while not place.is_dir():
        place = place.parent
    marker = place / f".jax_party-{uuid.uuid4().hex}"
    try:
        marker.touch()
    except OSError:
        yield None
        return
    try:
        yield str(marker)
    finally:
        marker.unlink(missing_ok=True)


def _check_folder(address: str, folder: Path, shared: bool, nodes: list[Node]) -> None:
    """Refuse a folder on disk that not all workers have access to."""
    if store_of(folder).on_disk(folder) is None:
        return
    if not shared and (len(nodes) > 1 or nodes[0].name != socket.gethostname()):
        raise SweepError(
            f"ADDRESS={address}: workers on {len(nodes)} nodes cannot write to {folder} on this machine; name a "
            "place that all can write to: STORAGE=s3://bucket/prefix, or STORAGE=<a path that all nodes share>"
        )
    blind = [str(node) for node in nodes if not node.sees]
    if blind:
        raise SweepError(
            f"{folder}: {', '.join(blind)} does not see it; give a path that all nodes share, or "
            "STORAGE=s3://bucket/prefix"
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
