"""`launcher/cluster/`: what each tool that reads these files says of them, and the scripts run for real."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import psutil
import pytest
import yaml

from tests.launcher.drivers import ROOT

CLUSTER = ROOT / "launcher" / "cluster"
LAUNCHER_FILES = ("on_premise.yaml", "aws.yaml")
SCRIPTS = ("node.sh", "slurm.sh")
RAY = Path(sys.executable).parent / "ray"
KUBERNETES = "1.37"


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return content


# -- Ray's cluster launcher --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_rays_own_validator_accepts_it(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(_read(name))
    validate_config(config)
    with pytest.raises(jsonschema.ValidationError, match="setup_command"):
        validate_config({**config, "setup_command": []})
    kinds = config["available_node_types"]
    workers = sum(kind["min_workers"] for kind in kinds.values())
    assert workers == {"on_premise.yaml": 2, "aws.yaml": 2}[name]
    assert config["head_node_type"] in kinds


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_nodes_have_our_environment_and_our_token(name: str) -> None:
    config = _read(name)
    assert "make -C ~/jax_party setup" in " ".join(config["setup_commands"])
    assert config["file_mounts"] == {"~/jax_party": ".", "~/.ray/auth_token": "~/.ray/auth_token"}
    (head,), (worker,) = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    assert "node.sh --background head 6379" in head and "--autoscaling-config=$HOME/ray_bootstrap_config.yaml" in head
    assert worker.endswith("node.sh --background worker $RAY_HEAD_IP:6379")


def test_gpu_workers_have_a_gpu() -> None:
    assert _read("aws.yaml")["available_node_types"]["gpu"]["resources"]["GPU"] == 1
    (group,) = _read("rayjob.yaml")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "#SBATCH --gpus-per-task=1\n" in (CLUSTER / "slurm.sh").read_text()


# -- KubeRay -----------------------------------------------------------------------------------------------------------


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(required), "additionalProperties": False,
    }  # fmt: skip


def _list_of(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": dict(item), "minItems": 1}


def _enum(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


TEXT, COUNT, FLAG, ANY = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}, {}
TEXTS = {"type": "object", "additionalProperties": TEXT}
POD = {"type": "object"}
RAY_CLUSTER = _object(
    ("headGroupSpec",), rayVersion=TEXT, enableInTreeAutoscaling=FLAG, autoscalerOptions=ANY,
    authOptions=_object(mode=_enum("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
    headGroupSpec=_object(
        ("template",), serviceType=_enum("ClusterIP", "NodePort", "LoadBalancer"), rayStartParams=TEXTS, template=POD,
        enableIngress=FLAG, labels=TEXTS, resources=TEXTS,
    ),
    workerGroupSpecs=_list_of(
        _object(
            ("groupName", "minReplicas", "maxReplicas", "template"), groupName=TEXT, replicas=COUNT, minReplicas=COUNT,
            maxReplicas=COUNT, numOfHosts=COUNT, idleTimeoutSeconds=COUNT, rayStartParams=TEXTS, template=POD,
            labels=TEXTS, resources=TEXTS, suspend=FLAG,
        )
    ),
)  # fmt: skip
RAY_JOB = _object(
    ("apiVersion", "kind", "metadata", "spec"), apiVersion={"const": "ray.io/v1"}, kind={"const": "RayJob"},
    metadata=_object(name=TEXT, generateName=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS),
    spec=_object(
        ("entrypoint", "rayClusterSpec"), entrypoint=TEXT, rayClusterSpec=RAY_CLUSTER, runtimeEnvYAML=TEXT, jobId=TEXT,
        submissionMode=_enum("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"), backoffLimit=COUNT,
        activeDeadlineSeconds=COUNT, shutdownAfterJobFinishes=FLAG, ttlSecondsAfterFinished=COUNT, suspend=FLAG,
        entrypointNumCpus={"type": "number"}, entrypointNumGpus={"type": "number"}, submitterPodTemplate=POD,
    ),
)  # fmt: skip
"""The part of KubeRay's RayJob (`ray.io/v1`) that such a manifest may use, but for the pods in it."""


def test_the_rayjob_has_kuberays_fields() -> None:
    """No package has KubeRay's own schema, so this one is ours; `kubectl create --dry-run=server` asks KubeRay's."""
    manifest = _read("rayjob.yaml")
    jsonschema.validate(manifest, RAY_JOB)
    wrong = copy.deepcopy(manifest)
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 4
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(wrong, RAY_JOB)


def _pod_templates(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As Kubernetes objects of their own."""
    cluster = manifest["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [{"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]} for group in groups]


def test_kubernetes_own_schema_accepts_the_rayjobs_pods() -> None:
    templates = _pod_templates(_read("rayjob.yaml"))
    assert len(templates) == 2
    for template in templates:
        kubernetes_validate.validate(template, KUBERNETES, strict=True)
        wrong = copy.deepcopy(template)
        wrong["template"]["spec"]["containers"][0]["imagee"] = "x"
        with pytest.raises(kubernetes_validate.ValidationError, match="imagee"):
            kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_the_rayjob_is_our_ray_with_a_token() -> None:
    spec = _read("rayjob.yaml")["spec"]
    cluster = spec["rayClusterSpec"]
    pinned = re.search(r"^ray(?:\[.*\])?==([\d.]+)", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE)
    assert pinned is not None and cluster["rayVersion"] == pinned[1]
    assert cluster["authOptions"] == {"mode": "token"}
    assert "python -m launcher.sweep ALG=mappo" in spec["entrypoint"] and "ADDRESS=auto" in spec["entrypoint"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {group["template"]["spec"]["containers"][0]["image"] for group in groups}
    assert len(images) == 1 and spec["shutdownAfterJobFinishes"]


# -- All of them -------------------------------------------------------------------------------------------------------


def test_no_file_holds_a_secret() -> None:
    for path in CLUSTER.iterdir():
        text = path.read_text()
        assert not re.search(
            r"AKIA[0-9A-Z]{16}|[0-9a-f]{40,}|(?i:password|secret_access_key|token)\s*[:=]\s*['\"]?\w{16,}", text
        )
        assert "RAY_AUTH_MODE=disabled" not in text


def test_the_files_are_in_the_package() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "cluster/*" in data["launcher"]
    assert {path.name for path in CLUSTER.iterdir()} == {*LAUNCHER_FILES, *SCRIPTS, "rayjob.yaml", "Dockerfile"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_reads_the_scripts(name: str) -> None:
    subprocess.run(["bash", "-n", CLUSTER / name], check=True)
    assert "ray stop" not in (CLUSTER / name).read_text()  # it ends processes by name, other people's too


# -- The scripts, run --------------------------------------------------------------------------------------------------

# Ray turns 127.0.0.1 into an address that others can reach, but not the rest of the loopback network.
HOSTNAME = 'case $1 in -I) echo "198.51.100.7 127.0.0.$((${TASK:-1} + 1)) fd00::2" ;; *) exit 1 ;; esac'
SCONTROL = '[ "$1 $2" = "show hostnames" ] && printf "%s\\n" ${3//,/ }'
# As Slurm does: a task a node, all on this machine; SIGTERM goes to each of them.
SRUN = """
echo "$@" >>"$SRUN_LOG"
nodes=1
while [[ $1 == --* ]]; do [[ $1 == --nodes=* ]] && nodes=${1#--nodes=}; shift; done
first=$(( nodes > 1 ? 2 : 1 ))
pids=()
trap 'kill -TERM "${pids[@]}"; wait; exit 143' TERM
for task in $(seq "$first" $((first + nodes - 1))); do
  TASK=$task "$@" --temp-dir="$NODES/$task" & pids+=($!) # nodes of one machine need folders of their own
done
wait
"""
COMMAND = """
import os, sys, time
from pathlib import Path
import ray
assert os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN" not in os.environ
ray.init(address="auto", log_to_driver=False)
while len(alive := [node for node in ray.nodes() if node["Alive"]]) < 3:
    time.sleep(0.2)
found = {node["NodeManagerAddress"] for node in alive}
assert found == {"127.0.0.2", "127.0.0.3", "127.0.0.4"}, found
assert ray.cluster_resources()["CPU"] == 3.0
@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def where(_):
    time.sleep(1.0)
    return ray.get_runtime_context().get_node_id()
print("nodes", len(set(ray.get([where.remote(i) for i in range(3)]))), *sys.argv[1:], flush=True)
if sys.argv[1] == "stay":
    time.sleep(300)
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a Slurm of one machine, and a home of its own."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"hostname": HOSTNAME, "scontrol": SCONTROL, "srun": SRUN}.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "command.py").write_text(COMMAND)
    nodes = tempfile.mkdtemp(prefix="jp-")  # a socket's path may have 107 characters
    job = 1000 + os.getpid() % 9000
    yield {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "RAY": str(RAY), "PYTHONPATH": str(ROOT),
        "NODE_NETWORK": "127.0.", "SRUN_LOG": str(tmp_path / "srun.log"), "NODES": nodes, "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NODELIST": "node1,node2,node3", "SLURM_CPUS_PER_TASK": "1", "SLURM_SUBMIT_DIR": str(ROOT),
    }  # fmt: skip
    shutil.rmtree(nodes, ignore_errors=True)


def _tree(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def _assert_ended(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert [f"{one.pid} {' '.join(one.cmdline())[:100]}" for one in alive] == []


def _start_job(environment: Mapping[str, str], log: Path, *words: str) -> subprocess.Popen[str]:
    with log.open("w") as stream:
        return subprocess.Popen(
            ["bash", CLUSTER / "slurm.sh", sys.executable, log.parent / "command.py", *words], env=dict(environment),
            cwd=log.parent, text=True, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _end(job: subprocess.Popen[str]) -> None:
    """End a job that still runs: its group is its own."""
    if job.poll() is None:
        job.terminate()
        try:
            job.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


def _until(text: str, log: Path, job: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until the job has printed `text`; its processes then."""
    deadline = time.monotonic() + 240
    while text not in log.read_text():
        assert time.monotonic() < deadline and job.poll() is None, log.read_text()
        time.sleep(0.2)
    return _tree(job)


@pytest.mark.slow
def test_a_slurm_job_is_three_nodes_and_leaves_nothing(slurm: dict[str, str], tmp_path: Path) -> None:
    log, token = tmp_path / "job.log", tmp_path / ".ray" / f"slurm-{slurm['SLURM_JOB_ID']}.token"
    job = _start_job(slurm, log, "stay", "a word")
    try:
        processes = _until("nodes 3 stay a word", log, job)
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        secret = token.read_text()
        assert len(secret) == 64 and secret not in log.read_text()
        assert all(secret not in " ".join(one.cmdline()) for one in processes)
        job.send_signal(signal.SIGTERM)  # as Slurm does before the time limit
        assert job.wait(60) == 143
    finally:
        _end(job)
    _assert_ended(processes)
    assert not token.exists()
    head, workers = (tmp_path / "srun.log").read_text().splitlines()
    assert "--nodes=1 --nodelist=node1" in head and "node.sh head" in head
    assert "--nodes=2 --exclude=node1" in workers and "node.sh worker 127.0.0.2:" in workers


@pytest.mark.slow
def test_a_slurm_job_ends_with_its_command(slurm: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    job = _start_job({**slurm, "RAY_AUTH_TOKEN": "another"}, log, "go")
    try:
        processes = _until("nodes 3 go", log, job)
        assert job.wait(60) == 0
    finally:
        _end(job)
    _assert_ended(processes)
    assert list((tmp_path / ".ray").iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"SLURM_JOB_ID": ""}, "run it by sbatch"),
        ({"RAY": "/nowhere/ray"}, "/nowhere/ray: not there; run `make setup` on a login node first"),
        ({"SLURM_SUBMIT_DIR": "/"}, "no checkout of JaxParty; submit from there"),
    ],
    ids=str,
)
def test_a_bad_slurm_job_says_what_to_do(slurm: dict[str, str], changed: dict[str, str], message: str) -> None:
    done = subprocess.run(
        ["bash", CLUSTER / "slurm.sh", "true"], env={**slurm, **changed}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.slow
def test_a_node_in_the_background_is_started_once_and_ended(slurm: dict[str, str], tmp_path: Path) -> None:
    def node(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", CLUSTER / "node.sh", *words], env=slurm, capture_output=True, text=True, timeout=120
        )

    port = str(31000 + os.getpid() % 900)
    token = tmp_path / ".ray" / "auth_token"
    assert "no token" in node("head", port).stderr
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o644)
    assert "others can read it" in node("head", port).stderr
    token.chmod(0o600)
    other = {**slurm, "NODE_NETWORK": "10.9."}
    lost = subprocess.run(["bash", CLUSTER / "node.sh", "address"], env=other, capture_output=True, text=True)
    assert lost.returncode == 2 and "set NODE_NETWORK" in lost.stderr
    try:
        first = node("--background", "head", port, "--num-cpus=0")
        assert (first.returncode, first.stdout) == (0, "Ray head on 127.0.0.2\n"), first.stderr
        pid_file = tmp_path / ".ray" / "jax_party-node.pid"
        started = psutil.Process(int(pid_file.read_text().split()[0]))
        processes = [started, *started.children(recursive=True)]
        again = node("--background", "head", port, "--num-cpus=0")
        assert again.returncode == 0, again.stderr
        _assert_ended(processes)
        second = psutil.Process(int(pid_file.read_text().split()[0]))
        processes = [second, *second.children(recursive=True)]
    finally:
        ended = node("stop")
    assert ended.returncode == 0, ended.stderr
    _assert_ended(processes)
    assert not pid_file.exists() and node("stop").returncode == 0
