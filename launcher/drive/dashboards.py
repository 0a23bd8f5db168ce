"""Where else a sweep's progress is shown: Ray's dashboard, Prometheus, W&B, MLflow."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

from jax_party.errors import SweepError
from launcher.ask.requested import Watching
from launcher.machine.token import has_token
from launcher.ray_compat import dashboard_address
from launcher.show.progress import Progress
from launcher.show.tracking import check_tracking, make_tracker

HOST: Final = "127.0.0.1"
TOKEN_HINT: Final = "it asks for Ray's token, which `.venv/bin/ray get-auth-token` prints"


def check_watching(watching: Watching, address: str | None) -> None:
    """Check that the requested dashboard and tracking service are available.

    Raises:
      SweepError: one of them is not; the message says what to do.
    """
    check_tracking(watching.track)
    if watching.dashboard and address is not None:
        raise SweepError("DASHBOARD=1: is for a Ray of our own; a cluster has its dashboard already: leave it out")
    if watching.dashboard and not has_token():
        raise SweepError(
            "DASHBOARD=1: Ray's dashboard needs a token, and there is none; make one: "
            ".venv/bin/ray get-auth-token --generate"
        )


def ray_settings(watching: Watching) -> dict[str, Any]:
    """Return the dashboard's arguments of `ray.init` for a Ray of our own: on loopback, on free ports."""
    if not watching.dashboard:
        return {"include_dashboard": False}
    with socket.socket() as first, socket.socket() as second:
        first.bind((HOST, 0))
        second.bind((HOST, 0))
        ports = first.getsockname()[1], second.getsockname()[1]
    return {
        "include_dashboard": True, "dashboard_host": HOST, "dashboard_port": ports[0], "_metrics_export_port": ports[1],
    }  # fmt: skip


def callbacks(watching: Watching, address: str | None, folder: Path, progress: Progress) -> list[Any]:
    """Return additional callbacks for Tune: gauges and a tracker.

    Gauges are added only if Ray exports them: with our own dashboard, or on a cluster that was not joined by ray://.
    """
    found: list[Any] = []
    if watching.dashboard or (address is not None and not address.startswith("ray://")):
        from launcher.show.gauges import GaugeCallback

        found.append(GaugeCallback(progress))
    if watching.track is not None:
        found.append(make_tracker(watching.track, folder, progress))
    return found


def dashboard_lines(ray: Any, watching: Watching, address: str | None) -> list[str]:
    """Return lines with the addresses of Ray's dashboard and metrics and how to log in; empty if there are none."""
    if address is None and not watching.dashboard:
        return []
    url = dashboard_url(ray)
    lines = [f"Ray's dashboard: http://{url} ({TOKEN_HINT})"] if url else []
    targets = metrics_targets(ray)
    return lines + ([f"Prometheus metrics: {', '.join(targets)} (launcher/monitoring/)"] if targets else [])


def dashboard_url(ray: Any) -> str | None:
    """Return host:port of Ray's dashboard, or None if there is none or Ray was joined by ray://."""
    if ray.util.client.ray.is_connected():
        return None
    return dashboard_address()


def metrics_targets(ray: Any) -> list[str]:
    """Return host:port of the metrics of each node that exports any."""
    nodes = [node for node in ray.nodes() if node.get("Alive") and node.get("MetricsExportPort", 0) > 0]
    return [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes]
