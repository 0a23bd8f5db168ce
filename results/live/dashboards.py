"""Optuna's dashboard and TensorBoard as processes, for one sweep or for all sweeps.

Neither asks for a password, so they listen on the loopback interface only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jax_party.errors import JaxPartyError
from results.live.dashboard_source import Source

HOST: Final = "127.0.0.1"
LAST_PORT: Final = 65_535
START_S: Final = 60.0
STOP_S: Final = 5.0
RELOAD_S: Final = 5
"""How often TensorBoard reloads its files, in seconds."""


class DashboardError(JaxPartyError):
    """A dashboard could not be started, or it has exited."""


@dataclass
class Server:
    """A dashboard that runs in its own process."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self, deadline: float) -> None:
        """Wait until the dashboard answers.

        Raises:
          DashboardError: it has exited, or does not answer before the deadline.
        """
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(self.url, timeout=5):
                return
            time.sleep(0.1)
        raise DashboardError(
            f"{self.name}: has not answered at {self.url} for {START_S:.0f} s; see {self._last_line()}"
        )

    def check(self) -> None:
        """Raise DashboardError if the process has exited."""
        if (code := self.process.poll()) is not None:
            raise DashboardError(f"{self.name}: ended with exit code {code} ({self._last_line()}); start it again")

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
    return port


def check_port(port: int) -> int:
    """Return the port if it is free.

    Raises:
      DashboardError: the port is in use.
    """
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise DashboardError(
                f"port {port}: cannot be used ({error}); give another, or none for a free one"
            ) from error
    return port


def start_servers(source: Source, own_folder: Path, port: int | None) -> Iterator[Server]:
    """Start both dashboards, TensorBoard at the port after Optuna's; on free ports if `port` is None."""
    ports = [free_port(), free_port()] if port is None else [check_port(port), check_port(port + 1)]
    programs = {
        "Optuna": ["optuna-dashboard", str(source.journal), "--storage-class", "JournalFileStorage",
                   "--server", "wsgiref", "--host", HOST, "--port", str(ports[0])],
        "TensorBoard": ["tensorboard", "--logdir", str(source.events), "--host", HOST, "--port", str(ports[1]),
                        "--reload_interval", str(RELOAD_S)],
    }  # fmt: skip
    paths = {"Optuna": "/dashboard/", "TensorBoard": "/"}
    for (name, (program, *words)), number in zip(programs.items(), ports, strict=True):
        found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
        if found is None:
            raise DashboardError(f"{program}: is not installed; make setup EXTRA=dashboard")
        log = own_folder / f"{program}.log"
        with log.open("wb") as stream:  # in a new session, so that Ctrl-C reaches only this process
            process = subprocess.Popen(
                [found, *words], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )
        yield Server(name, f"http://{HOST}:{number}{paths[name]}", process, log)


def show(folder: Path, port: int | None, say: Callable[[str], None], stop: threading.Event) -> None:
    """Show a folder until `stop` is set.

    Raises:
      JaxPartyError: there is nothing to show, or a dashboard cannot be started or has ended.
    """
    for module in ("optuna_dashboard", "tensorboard", "tensorboardX"):
        if importlib.util.find_spec(module) is None:
            raise DashboardError(f"{module}: is not installed; make setup EXTRA=dashboard")
    with tempfile.TemporaryDirectory(prefix="jax_party-dashboard-") as made, contextlib.ExitStack() as stack:
        source = Source(folder, Path(made))
        begun = source.update() > 0
        servers = []
        for server in start_servers(source, Path(made), port):
            stack.callback(server.stop)
            servers.append(server)
        deadline = time.monotonic() + START_S
        for server in servers:
            server.wait(deadline)
            say(f"{server.name + ':':<13}{server.url}")
        if not begun:
            say(f"{folder}: no trial has started yet; trials appear as they start")
        say("on this machine only, as they need no password; from elsewhere use ssh -L; Ctrl-C stops them")
        while not stop.wait(source.refresh_s):
            for server in servers:
                server.check()
            source.update()
