"""Gauges on Ray's Prometheus port, W&B and MLflow, on a real Ray; the files for Prometheus and Grafana."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import secrets
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jax_party.errors import SweepError
from launcher.ask.choices import Track
from launcher.ask.parsing import parse_promote_options, parse_resume_options, parse_sweep_options
from launcher.ask.requested import Watching
from launcher.drive.dashboards import check_watching, ray_settings
from tests.launcher.drivers import Driver, sweep_folder

pytestmark = pytest.mark.timeout(400)
Begin = Callable[..., Driver]
MONITORING = Path(__file__).parents[2] / "launcher" / "monitoring"
SHORT = ("ALG=ippo", "SAMPLES=2", "EVALUATIONS=3", "TIMESTEPS=49152", "WORKERS=1")
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed: make setup EXTRA=wandb")
needs_mlflow = pytest.mark.skipif(
    find_spec("mlflow") is None, reason="mlflow is not installed: make setup EXTRA=mlflow"
)


def read(url: str, token: str | None = None) -> str:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def gauges(text: str) -> dict[tuple[str, str], tuple[dict[str, str], float]]:
    """(name, trial) -> (our labels, value)."""
    found = {}
    for name, labels, value in re.findall(r"^ray_jaxparty_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        read = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        ours = {label: read[label] for label in ("sweep", "trial", "algorithm", "scenario")}
        found[name, ours["trial"]] = ours, float(value)
    return found


@pytest.mark.slow
def test_gauges_and_the_dashboard_are_on_loopback(
    sweep: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = secrets.token_hex(32)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    driver = sweep(*SHORT, f"OUT={tmp_path}", "DASHBOARD=1", delay_s=6.0)
    driver.until(lambda: "Prometheus metrics: " in driver.output())
    metrics = re.search(r"Prometheus metrics: (127\.0\.0\.1:\d+) ", driver.output())
    dashboard = re.search(r"Ray's dashboard: (http://127\.0\.0\.1:\d+) ", driver.output())
    assert metrics is not None and dashboard is not None
    with pytest.raises(urllib.error.HTTPError, match="401"):
        read(f"{dashboard[1]}/api/version")
    assert "ray_version" in read(f"{dashboard[1]}/api/version", token)
    seen: dict[tuple[str, str], tuple[dict[str, str], float]] = {}

    def told() -> bool:
        seen.update(gauges(read(f"http://{metrics[1]}/metrics")))
        return {name for name, _ in seen} == {"trial_state", "episode_return", "steps_per_second"}

    driver.until(told)
    folder = sweep_folder(tmp_path)
    for (name, trial), (labels, value) in seen.items():
        assert (folder / trial).is_dir()
        assert labels == {"sweep": "-".join(trial.split("-")[:-1]), "trial": trial, "algorithm": "ff_ippo",
                          "scenario": "p-base"}  # fmt: skip
        if name == "steps_per_second":
            assert value == 10_000.0
        elif name == "trial_state":
            assert value in (1.0, 2.0)
    assert driver.wait() == 0
    assert token not in driver.output()
    driver.assert_nothing_left()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A key that must not be written, and proxies that lead nowhere: whatever is sent fails."""
    key = secrets.token_hex(20)
    monkeypatch.setenv("WANDB_API_KEY", key)
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, key)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("MLFLOW_TRACKING_URI", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    yield key


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@needs_wandb
@pytest.mark.slow
def test_wandb_offline_keeps_runs_here_and_the_key_nowhere(
    sweep: Begin, tmp_path: Path, offline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    driver = sweep(*SHORT, f"OUT={tmp_path}", "TRACK=wandb")
    assert driver.wait() == 0, driver.output()
    folder = sweep_folder(tmp_path)
    runs = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    content = b"".join(run.read_bytes() for run in runs)
    assert b"system.actor_lr" in content and b"episode_return" in content
    assert files_with(tmp_path, offline) == []
    driver.assert_nothing_left()


@needs_mlflow
@pytest.mark.slow
def test_mlflow_on_a_local_store(sweep: Begin, tmp_path: Path, offline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # to read it back
    import mlflow

    driver = sweep(*SHORT, f"OUT={tmp_path}", "TRACK=mlflow")
    assert driver.wait() == 0, driver.output()
    folder = sweep_folder(tmp_path)
    client = mlflow.MlflowClient((folder / "mlruns").as_uri())
    (experiment,) = [one for one in client.search_experiments() if one.name == "jax-party"]
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted(
        path.parent.name for path in folder.glob("*/record.json")
    )
    for run in runs:
        assert run.info.status == "FINISHED"
        assert {"system.actor_lr", "algorithm", "scenario"} <= set(run.data.params)
        assert [one.step for one in client.get_metric_history(run.info.run_id, "episode_return")] == [1, 2, 3]
    assert files_with(tmp_path, offline) == []
    driver.assert_nothing_left()


def test_nothing_is_tracked_unless_asked_for() -> None:
    assert parse_sweep_options(["ALG=ippo"]).watching == Watching()
    assert ray_settings(Watching()) == {"include_dashboard": False}
    asked = Watching(dashboard=True, track=Track.MLFLOW)
    words = ["DASHBOARD=1", "TRACK=mlflow"]
    assert parse_sweep_options(["ALG=ippo", *words]).watching == asked
    assert parse_resume_options([".", *words]).watching == asked
    assert parse_promote_options([".", *words]).watching == asked
    assert ray_settings(asked)["dashboard_host"] == "127.0.0.1"


@pytest.mark.parametrize("word", ["TRACK=wandbb", "DASHBOARD=yes"])
def test_bad_words_are_refused(word: str) -> None:
    with pytest.raises(SweepError, match=r"TRACK: unknown 'wandbb'; did you mean wandb\?|DASHBOARD: expected 0 or 1"):
        parse_sweep_options(["ALG=ippo", word])


def test_a_package_that_is_missing_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.show.tracking.importlib.util.find_spec", lambda name: None)
    with pytest.raises(SweepError, match="TRACK=mlflow: the package mlflow is not installed; make setup EXTRA=mlflow"):
        check_watching(Watching(track=Track.MLFLOW), None)


def test_wandb_without_a_key_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.show.tracking.importlib.util.find_spec", lambda name: True)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(SweepError, match="WANDB_API_KEY is not set"):
        check_watching(Watching(track=Track.WANDB), None)


def test_a_dashboard_needs_a_token_and_a_ray_of_our_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SweepError, match="get-auth-token --generate"):
        check_watching(Watching(dashboard=True), None)
    with pytest.raises(SweepError, match="a cluster has its dashboard already"):
        check_watching(Watching(dashboard=True), "auto")


# -- Files for Prometheus and Grafana ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_takes_its_config(tmp_path: Path) -> None:
    """But for Ray's list, which is there once a Ray has been started."""
    config = (MONITORING / "prometheus.yml").read_text()
    (tmp_path / "ray.json").write_text("[]")
    there = config.replace("/tmp/ray/prom_metrics_service_discovery.json", str(tmp_path / "ray.json"))
    assert there != config
    (tmp_path / "prometheus.yml").write_text(there)
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" in done.stdout


@pytest.fixture
def two_lists_of_one_node(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Asks a Prometheus that knows a node of two trials' gauges from Ray's list and from its own config."""

    class Gauges(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lines = [f'ray_jaxparty_{name}{{sweep="s",trial="{trial}",algorithm="ff_ippo",scenario="p-base"}} {value}\n'
                     for trial in "ab" for name, value in (("trial_state", 1), ("steps_per_second", 100))]  # fmt: skip
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write("".join(lines).encode())

        def log_message(self, *words: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gauges) as node, socket.socket() as free:
        threading.Thread(target=node.serve_forever, daemon=True).start()
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        config["global"]["scrape_interval"] = "1s"
        target = f"127.0.0.1:{node.server_port}"
        (tmp_path / "ray.json").write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [target]}]))
        for job in config["scrape_configs"]:
            for known in job.get("file_sd_configs", ()):
                known["files"] = [str(tmp_path / "ray.json")]
            for known in job.get("static_configs", ()):
                known["targets"] = [target]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        process = subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield lambda query: json.loads(read(f"http://127.0.0.1:{port}/api/v1/{query}"))["data"]
        finally:
            process.terminate()
            process.wait(30)
            node.shutdown()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: prometheus)")
def test_a_node_that_is_listed_twice_is_counted_once(two_lists_of_one_node: Callable[[str], Any]) -> None:
    dashboard = json.loads((MONITORING / "grafana" / "dashboards" / "sweeps.json").read_text())
    by_title = {panel["title"]: panel["targets"] for panel in dashboard["panels"]}
    asked = [by_title["Environment steps per second, all running trials"][0], by_title["Trials by state"][1]]
    queries = [urllib.parse.quote(re.sub(r"\$\w+", ".*", target["expr"])) for target in asked]
    deadline = time.monotonic() + 60.0
    targets: list[dict[str, Any]] = []
    while not targets or any(target["health"] != "up" for target in targets):
        assert time.monotonic() < deadline, targets
        time.sleep(0.2)
        with contextlib.suppress(OSError):  # it is starting
            targets = two_lists_of_one_node("targets")["activeTargets"]
    time.sleep(2.0)  # a sample is there once it has been stored
    found = [[one["value"][1] for one in two_lists_of_one_node(f"query?query={query}")["result"]] for query in queries]
    assert found == [["200"], ["2"]], "two trials run, at 100 steps a second each"
    assert len(targets) == 1


SOURCE = {"type": "object", "required": ["type", "uid"], "properties": {"type": {"const": "prometheus"}}}
TARGET = {
    "type": "object", "required": ["refId", "expr", "legendFormat", "datasource"],
    "properties": {"refId": {"pattern": "^[A-Z]$"}, "expr": {"pattern": "ray_jaxparty_"}, "datasource": SOURCE},
}  # fmt: skip
PANEL = {
    "type": "object",
    "required": ["id", "title", "type", "datasource", "gridPos", "targets", "fieldConfig"],
    "properties": {
        "type": {"enum": ["timeseries", "stat"]},
        "gridPos": {
            "type": "object", "required": ["x", "y", "w", "h"],
            "properties": {"x": {"minimum": 0, "maximum": 23}, "w": {"minimum": 1, "maximum": 24}},
        },
        "targets": {"type": "array", "minItems": 1, "items": TARGET},
        "datasource": SOURCE,
        "alert": False,
    },
}  # fmt: skip
DASHBOARD = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {"type": "array", "minItems": 1, "items": PANEL},
        "templating": {"properties": {"list": {"items": {"required": ["name", "type", "query", "datasource"]}}}},
    },
}


def test_grafanas_dashboard_fits_what_grafana_reads() -> None:
    dashboard = json.loads((MONITORING / "grafana" / "dashboards" / "sweeps.json").read_text())
    jsonschema.validate(dashboard, DASHBOARD)
    sources = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    (uid,) = [source["uid"] for source in sources["datasources"]]
    panels: list[dict[str, Any]] = dashboard["panels"]
    used = {item["datasource"]["uid"] for panel in panels for item in (panel, *panel["targets"])}
    assert used == {uid}
    providers = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/sweeps.yaml").read_text())
    assert [one["options"]["path"] for one in providers["providers"]] == ["launcher/monitoring/grafana/dashboards"]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_can_parse_every_query_of_the_dashboard(tmp_path: Path) -> None:
    dashboard = json.loads((MONITORING / "grafana" / "dashboards" / "sweeps.json").read_text())
    queries = [re.sub(r"\$\w+", ".*", target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(queries)} rules found" in done.stdout
