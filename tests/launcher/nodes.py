"""A Ray cluster of separate nodes on this machine, which share no folder, as a test starts it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

START_LIMIT_S = 90.0
HEAD = "127.0.0.2"  # Ray takes 127.0.0.1 for the address that others reach this machine by
RAY = Path(sys.executable).with_name("ray")


class Nodes:
    """A head without CPUs, and workers with one CPU each.

    Every node has a HOME, a TMPDIR, a working folder, an address and a core of its own.

    Args:
      environment: of every node, but for that.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="jp", dir="/tmp"))  # Ray's sockets need a short path
        self.token = secrets.token_hex(16)
        hidden = ("RAY_", "AWS_", "JAX_PARTY_", "PYTHONPATH")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        self._environment = {**kept, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_worker_niceness": "0",
                             "RAY_USAGE_STATS_ENABLED": "0", **environment}  # fmt: skip
        self._port, self.client_port, agent = _free_ports(3)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._start(
            "head", None, {}, "--head", f"--node-ip-address={HEAD}", f"--port={self._port}", "--num-cpus=0",
            "--include-dashboard=false", f"--ray-client-server-port={self.client_port}",
            f"--runtime-env-agent-port={agent}",
        )  # fmt: skip
        self._wait("head")

    @property
    def address(self) -> str:
        return f"{HEAD}:{self._port}"

    def add(self, *names: str, environment: Mapping[str, str] | None = None) -> None:
        """Start workers and wait until they have joined."""
        cores = sorted(os.sched_getaffinity(0))
        for name in names:
            number = len(self.processes)
            self._start(
                name, cores[number % len(cores)], environment or {},
                f"--address={self.address}", f"--node-ip-address=127.0.0.{number + 2}", "--num-cpus=1",
            )  # fmt: skip
        for name in names:
            self._wait(name)

    def temporary(self, name: str) -> Path:
        """A node's TMPDIR."""
        return self.place / name / "tmp"

    def kill(self, name: str) -> None:
        """SIGKILL to a node and all that runs on it."""
        node = psutil.Process(self.processes[name].pid)
        for process in [node, *node.children(recursive=True)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.processes[name].wait()

    def stop(self) -> None:
        """End every node."""
        for name, process in reversed(self.processes.items()):
            if process.poll() is None:
                self.kill(name)
        shutil.rmtree(self.place, ignore_errors=True)

    def _start(self, name: str, core: int | None, environment: Mapping[str, str], *words: str) -> None:
        folder = self.place / name
        for part in ("home", "tmp", "work"):
            (folder / part).mkdir(parents=True)
        own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
        command = [str(RAY), "start", "--block", "--object-store-memory=80000000", f"--temp-dir={folder / 'ray'}"]
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        with (folder / "log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*pinned, *command, *words], cwd=folder / "work", env={**self._environment, **own, **environment},
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _wait(self, name: str) -> None:
        deadline, log = time.monotonic() + START_LIMIT_S, self.place / name / "log"
        while "block forever" not in log.read_text():
            assert self.processes[name].poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind((HEAD, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
