"""`python -m results.dashboard [folder]`: Optuna's dashboard and TensorBoard for one sweep, or for all sweeps.

Both read files that this process generates from the trial folders and keeps up to date: a journal and event files.
Neither asks for a password, so they listen on the loopback interface only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error, whole_number
from jax_party.errors import JaxPartyError, RecordError
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.manifest import MANIFEST_FILE
from jax_party.trial.record import RECORD_FILE
from results.live.following import Follower
from results.tables import DEFAULT_ROOT

HOST: Final = "127.0.0.1"
LAST_PORT: Final = 65_535
REFRESH_S: Final = 3.0
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


class Source:
    """What the dashboards show: one sweep or run, or all of those under a folder, newest first."""

    def __init__(self, folder: Path, own_folder: Path) -> None:
        """Use `own_folder` for generated files, except the journal of a sweep that is writable.

        Raises:
          RecordError: there is nothing to show.
        """
        from results.live.events import EventFiles
        from results.live.journal import JOURNAL_FILE, Journal

        self._root: Path | None = None
        self._folder = folder
        self._followers: dict[Path, Follower] = {}
        if _is_local_folder(folder) and not _is_sweep_or_run(folder):
            self._root = folder
            self._find()
        else:
            self._followers[folder] = Follower(folder)
        self.events = own_folder / "events"
        self.events.mkdir()
        self.journal = own_folder / JOURNAL_FILE
        if self._root is None and self._followers[folder].manifest is not None and _can_write(folder):
            self.journal = folder / JOURNAL_FILE
        self._files = EventFiles(self.events)
        self._journal = Journal(self.journal)

    @property
    def refresh_s(self) -> float:
        """Seconds between updates."""
        return max(REFRESH_S, store_of(self._folder).look_every_s)

    def update(self) -> int:
        """Bring the journal and the event files up to date; return the number of trials that changed."""
        self._find()
        changed = 0
        for folder, follower in self._followers.items():
            trials = follower.changed()
            label = "" if self._root is None else _label(folder, self._root)
            self._journal.update(follower.manifest, trials, label)
            self._files.update(trials, label)
            changed += len(trials)
        return changed

    def _find(self) -> None:
        """Look for new sweeps and runs."""
        if self._root is None:
            return
        found = {path.parent for name in _MARKS for path in self._root.glob(f"*/*/*/{name}")}
        if not found:
            raise RecordError(
                f"{self._root}: no sweeps in it (<algorithm>/<date>/<time>); run one: make sweep ALG=mappo"
            )
        for folder in sorted(found - set(self._followers), key=lambda path: path.parts[-2:], reverse=True):
            self._followers[folder] = Follower(folder)


_MARKS: Final = (MANIFEST_FILE, RECORD_FILE)


def _is_local_folder(folder: Path) -> bool:
    return store_of(folder).on_disk(folder) is not None and folder.is_dir()


def _is_sweep_or_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MARKS)


def _can_write(folder: Path) -> bool:
    if store_of(folder).on_disk(folder) is None:
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _label(folder: Path, root: Path) -> str:
    """Return the label of a sweep among several: its date, time and name."""
    return "_".join(folder.relative_to(root).parts[1:])


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if there is nothing to show or a dashboard fails."""
    parser = OneLineParser(
        "python -m results.dashboard",
        description="Optuna's dashboard and TensorBoard.",
        variables={"folder": "SWEEP", "--port": "PORT"},
    )
    parser.add_argument(
        "folder", nargs="?", default=DEFAULT_ROOT, help=f"a sweep's folder, or one with all sweeps ({DEFAULT_ROOT})"
    )
    parser.add_argument(
        "--port",
        type=whole_number(1, LAST_PORT - 1),
        help="port of Optuna's dashboard; TensorBoard gets the next (free ports)",
    )
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    stop = threading.Event()

    def end(*_: Any) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        show(as_folder(options.folder), options.port, lambda line: console.print(line, markup=False), stop)
    except (JaxPartyError, OSError) as error:
        print_error(error)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
