"""The benchmarks' arithmetic, and one run of the cheapest. Nothing here asserts a timing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # `benchmarks` is run from the root and not installed

from benchmarks import engines, flops  # noqa: E402
from benchmarks.flops import Matmul  # noqa: E402
from benchmarks.harness import BenchmarkError, Options  # noqa: E402
from benchmarks.sweep import split  # noqa: E402
from jax_party.config import parse_config  # noqa: E402
from jax_party.trial.record import TrialRecord  # noqa: E402

ACTOR = [(3, 4), (4, 2)]
CRITIC = [(5, 4), (4, 1)]


def test_flops_of_a_tiny_network() -> None:
    """By hand, 10 rows through 3→4→2: forward 2·10·(12 + 8); backward twice that without the first layer's inputs."""
    forward, backward = flops.forward(ACTOR, 10), flops.backward(ACTOR, 10)
    assert flops.total(forward) == 2 * 10 * (12 + 8) == 400
    assert flops.total(backward) == 2 * 400 - 2 * 10 * 12 == 560
    assert Matmul("inputs", 10, 3, 4) not in backward
    assert backward[Matmul("inputs", 10, 4, 2)] == 1


def test_equal_layers_are_counted_each() -> None:
    assert flops.forward([(4, 4), (4, 4)], 1) == {Matmul("forward", 1, 4, 4): 2}


def test_flops_of_an_update() -> None:
    """6 steps × 2 environments × 5 agents = 60 rows: acting and judging once, learning 3 times."""
    counts = flops.update(ACTOR, CRITIC, steps=6, envs=2, agents=5, epochs=3, minibatches=2)
    acting, judging = 2 * 60 * (12 + 8), 2 * 60 * (20 + 4)
    forward = acting + judging
    backward = 2 * forward - 2 * 60 * (12 + 20)
    assert flops.total(counts) == forward + 3 * (forward + backward) == 41_280
    assert counts[Matmul("forward", 10, 3, 4)] == 6, "acting: one multiplication a step, of one row an agent"
    assert counts[Matmul("weights", 30, 5, 4)] == 3 * 2, "learning: one a minibatch and epoch"
    with pytest.raises(ValueError, match="does not divide"):
        flops.update(ACTOR, CRITIC, steps=1, envs=1, agents=3, epochs=1, minibatches=2)


def test_flops_of_the_standard_setting() -> None:
    """IPPO at 32 × 128 × 3 rows: 72,704 FLOPs a row forward, 139,264 backward, 4 epochs."""
    actor, critic = ([(12, 128), (128, 128), (128, outputs)] for outputs in (3, 1))
    counts = flops.update(actor, critic, steps=128, envs=32, agents=3, epochs=4, minibatches=2)
    assert flops.total(counts) == 12_288 * (72_704 + 4 * (72_704 + 139_264))


def test_layers_are_those_of_the_parameters() -> None:
    from benchmarks.throughput import layers
    from jax_party.runtime import prepare_process

    prepare_process()
    import jax
    import jax.numpy as jnp

    from jax_party.networks.heads import Actor
    from jax_party.networks.torsos import MLPTorso

    actor = Actor(MLPTorso((8, 6)), 3)
    params = jax.eval_shape(actor.init, jax.random.PRNGKey(0), jnp.zeros((1, 5)), jnp.ones((1, 3), bool))
    assert layers(params) == [(5, 8), (8, 6), (6, 3)]


def test_split_of_a_trials_seconds() -> None:
    """Its parts sum to the trial's seconds; the first evaluation's compilation is not counted twice."""
    record = TrialRecord(
        trial_id="t", algorithm="a", environment="e", scenario="s", seed=0, duration_s=20.0, compile_time_s=6.0,
        steps_per_second=1000.0, env_steps=5000,
    )  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"step": 0, "untrained": True, "wall_time_s": 7.0},
        {"step": 10, "evaluation_time_s": 2.5, "wall_time_s": 8.0},
        {"step": 20, "evaluation_time_s": 0.5, "wall_time_s": 10.0},
        {"step": 30, "evaluation_time_s": 0.5, "wall_time_s": 12.0},
        {"step": 30, "final": True, "wall_time_s": 13.0},
        {"step": 30, "absolute": True, "wall_time_s": 15.0},
    ]
    parts = split(record, rows)
    assert parts == {"compile_s": 6.0, "training_s": 5.0, "evaluation_s": 1.5, "absolute_s": 3.0, "rest_s": 4.5}
    assert sum(parts.values()) == record.duration_s


def test_a_benchmark_writes_its_numbers_with_provenance(tmp_path: Path) -> None:
    words = ["collector", "--trials", "5", "--repeats", "1", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "The collector" in done.stdout
    report = json.loads((tmp_path / "collector.json").read_text())
    assert report["benchmark"] == "collector"
    assert report["settings"] == {"trials": [5], "evaluations": 50, "new": 10, "repeats": 1}
    assert set(report["results"]["5"]) == {"first", "new", "changed", "none", "command_s", "bytes", "memory_mib"}
    assert report["results"]["5"]["first"]["wall_s"]["median"] > 0.0
    provenance = report["provenance"]
    assert provenance["cpu_count"] == os.cpu_count()
    assert len(provenance["load_average"]) == len(provenance["load_average_before"]) == 3
    assert {"git_sha", "versions", "host", "python", "platform"} <= set(provenance)
    assert provenance["command"][-len(words) :] == words


# -- Both engines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["ff_ippo", "ff_mappo", "rec_iql"])
def test_both_engines_get_mavas_defaults_or_nothing_is_measured(system: str) -> None:
    native = engines.composed("native", system, 3, 262_144)
    parse_config(native)
    assert (native["system"]["seed"], native["arch"]["num_evaluation"]) == (3, engines.EVALUATIONS)
    recorded = json.loads((ROOT / "tests" / "core" / "mava_defaults.json").read_text())
    mavas = recorded["systems"][system]["system"]
    mava = {"arch": recorded["arch"] | {"num_evaluation": engines.EVALUATIONS}, "system": mavas}
    engines.check_settings(system, native, mava)
    with pytest.raises(engines.BenchmarkError, match=rf"^{system}: system.gamma: 0.99 by \+preset=mava, 0.5 in the"):
        engines.check_settings(system, native, mava | {"system": mavas | {"gamma": 0.5}})


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [((1.0, 3.0), (2.0, 4.0), True), ((1.0, 2.0), (2.5, 4.0), False), ((5.0, 6.0), (1.0, 4.0), False),
     ((None, None), (1.0, 4.0), None)],
)  # fmt: skip
def test_scores_agree_where_their_intervals_overlap(one: Any, other: Any, agree: bool | None) -> None:
    found = ({"value": 0.0, "low": low, "high": high} for low, high in (one, other))
    assert engines.intervals_overlap(*found) is agree


def test_engines_alternate_and_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With figures that are made up: where the score is the seed, or 10 more, the engines disagree."""
    played = []

    def measured(engine: str, system: str, seed: int, steps: int) -> dict[str, float]:
        played.append((engine, system, seed, steps))
        native = engine == "native"
        return dict.fromkeys(engines.FIGURES, 2.0 if native else 1.0) | {"score": seed + (10.0 if native else 0.0)}

    class Mava:
        check = check_algorithm = staticmethod(lambda *_: None)
        version = staticmethod(lambda: "c92fe18")

    monkeypatch.setattr(engines, "_measure_apart", measured)
    monkeypatch.setattr(engines, "composed", lambda *_: {})
    monkeypatch.setattr(engines, "get_engine", lambda _: Mava)
    report = engines.run(Options(systems=("ff_ippo",), steps=64, seeds=2))
    assert [engine for engine, *_ in played] == ["native", "mava", "mava", "native"]
    found = report.results["ff_ippo"]
    assert found["native over mava"]["steps_per_second"] == 2.0
    assert found["native"]["score_interval"]["value"] == 10.5
    assert found["scores agree"] is True  # two seeds say little: half the interval is 6.4
    assert report.settings["overrides"]["native"][-1] == "+preset=mava"
    assert report.settings["mava"] == "c92fe18"
    assert "scores agree within their intervals" in str(report.tables[0].caption)


def test_a_run_of_the_native_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured apart, here in this process and made short."""
    from jax_party.runtime import prepare_process

    prepare_process()
    short = ("env/scenario=p-short", "arch.num_envs=2", "arch.num_eval_episodes=2", "vault=none",
             "arch.num_absolute_metric_eval_episodes=2", "arch.num_evaluation=2", "logger.use_console=false",
             "system.rollout_length=8", "network.actor_network.pre_torso.layer_sizes=[8]",
             "network.critic_network.pre_torso.layer_sizes=[8]")  # fmt: skip
    monkeypatch.setattr(engines, "SAME", short)
    found = engines.measure("native", "ff_ippo", 0, 64)
    assert set(found) == set(engines.FIGURES)
    assert found["steps_per_second"] > 0.0 and 0.0 < found["first_metric_s"] < found["wall_s"]


def test_a_wrong_benchmark_is_refused(tmp_path: Path) -> None:
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit) as refused:
        main(["throughputt", "--out", str(tmp_path)])
    assert refused.value.code == 2


def test_a_command_that_fails_or_hangs_is_told(tmp_path: Path) -> None:
    from benchmarks.harness import environment, run_command

    with pytest.raises(BenchmarkError, match="exit code 3: sorry"):
        run_command([sys.executable, "-c", "print('sorry'); raise SystemExit(3)"], 60.0, environment())
    with pytest.raises(BenchmarkError, match="longer than 1 s"):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"], 1.0, environment())
    seconds, output = run_command([sys.executable, "-c", "print(1)"], 60.0, environment())
    assert seconds > 0.0
    assert output == "1\n"


def test_multiplications_are_counted_from_the_program() -> None:
    """A scan counts its length times, a branch at its dearest, a gradient as two more multiplications."""
    from jax_party.runtime import prepare_process

    prepare_process()
    import jax
    import jax.numpy as jnp

    from benchmarks.matmuls import count

    x, w = jnp.ones((10, 3)), jnp.ones((3, 4))
    one = 2 * 10 * 3 * 4

    def scanned(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda total, _: (total + (x @ w).sum(), None), 0.0, None, length=7)[0]

    def branching(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.cond(x.sum() > 0, lambda: (x @ w).sum() + (x @ w).max(), lambda: x.sum())

    assert count(jax.make_jaxpr(jnp.matmul)(x, w).jaxpr) == one
    assert count(jax.make_jaxpr(jax.jit(scanned))(x, w).jaxpr) == 7 * one
    assert count(jax.make_jaxpr(branching)(x, w).jaxpr) == 2 * one
    assert count(jax.make_jaxpr(jax.grad(lambda x, w: (x @ w).sum(), (0, 1)))(x, w).jaxpr) == 3 * one
    with pytest.raises(ValueError, match="while loop"):
        count(jax.make_jaxpr(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x))(w @ w.T).jaxpr)


def test_the_two_counts_of_an_update_agree() -> None:
    """From the layers' shapes and from the program: they differ by the bootstrap values alone."""
    from jax_party.runtime import prepare_process

    prepare_process()
    import jax

    from benchmarks.matmuls import count
    from benchmarks.setting import make_config
    from jax_party.config import make_budget
    from jax_party.training.program import Program, make_hyper

    config = make_config("ff_ippo", "vault=none", "arch.gradient_chunk_size=null")
    system, hyper = Program(config).system, make_hyper(config, make_budget(config))
    state = jax.eval_shape(system.start, hyper, jax.random.PRNGKey(0))
    actor, critic = ([(12, 128), (128, 128), (128, outputs)] for outputs in (3, 1))
    expected = flops.total(flops.update(actor, critic, steps=128, envs=32, agents=3, epochs=4, minibatches=2))
    bootstrap = flops.total(flops.forward(critic, 32 * 3))  # after the rollout; where an episode ends is left out
    found = count(jax.make_jaxpr(system.update)(hyper, state).jaxpr)
    assert found == expected + bootstrap


def test_a_learning_case_reads_its_curves_where_it_says_and_judges_the_mean_at_its_budget() -> None:
    from benchmarks.learning import CASES, sum_up, value_at, verdict

    case = next(case for case in CASES if case.name == "p-base")
    curves = ([0.5, 0.03, 0.2], [0.5, 0.05, 0.1])
    steps = [131_072, 262_144, 1_048_576]
    runs = [
        {"seed": seed, "env_steps": steps, "values": values, "steps_per_second": 10.0 * (seed + 1)}
        for seed, values in enumerate(curves)
    ]
    part = sum_up(case, runs)
    assert part["at"] == {"262144": [0.03, 0.05], "1048576": [0.2, 0.1]}
    assert (part["mean"], part["steps_per_second"]) == (pytest.approx(0.04), 15.0)
    assert verdict(case, "ff_ippo", part) == "yes"
    assert verdict(case, "ff_ippo", sum_up(case, [runs[0] | {"values": [0.0, 0.2, 0.0]}])) == "no"
    assert value_at(runs[0], 200_000) == 0.03, "the first evaluation from there on"
    unbounded = next(case for case in CASES if not case.bound)
    assert verdict(unbounded, "ff_ippo", part) == "–"


def test_what_was_learned_goes_between_the_marks_of_the_docs(tmp_path: Path) -> None:
    from benchmarks.curves import BEGIN, END, write_docs
    from benchmarks.learning import CASES, sum_up

    case = next(case for case in CASES if case.name == "cue-16")
    runs = [
        {"seed": seed, "env_steps": [262_144, 524_288], "values": [0.5, 1.0 - 0.1 * seed], "steps_per_second": 1.0}
        for seed in range(2)
    ]
    docs, images = tmp_path / "learning.md", tmp_path / "images"
    docs.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_docs({case.name: {"rec_ippo": sum_up(case, runs)}}, docs, images)
    text = docs.read_text()
    assert "| `rec_ippo` | 0.500 (0.500 to 0.500) | 0.950 (0.900 to 1.000) | 2 | yes |" in text
    assert text.startswith("before\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    picture = images / "learning-cue-16.svg"
    first = picture.read_bytes()
    assert b"<svg" in first
    write_docs({case.name: {"rec_ippo": sum_up(case, runs)}}, docs, images)
    assert (docs.read_text(), picture.read_bytes()) == (text, first), "the same numbers make the same page"
    docs.write_text("no marks")
    with pytest.raises(BenchmarkError, match=r"the lines .* are missing"):
        write_docs({}, docs, images)


def test_runs_of_other_settings_are_kept_beside_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import learning

    trained = []

    def measure(function: str, arguments: dict[str, Any], cores: list[int], timeout_s: float) -> dict[str, Any]:
        trained.append(arguments["steps"])
        steps = arguments["steps"]
        return {"env_steps": [steps], "values": [float(steps)], "steps_per_second": 1.0}

    monkeypatch.setattr(learning, "call_in_process", measure)
    for steps in (4096, 8192, 4096):
        asked = Options(systems=("ff_ippo",), cases=("p-base",), seeds=1, steps=steps, out=tmp_path)
        report = learning.run(asked)
        assert report.results["p-base"]["ff_ippo"]["last"] == [float(steps)]
    assert trained == [4096, 8192], "the first run was not made again, and not lost"
    with pytest.raises(BenchmarkError, match="--docs"):
        learning.run(Options(steps=1, docs=True, out=tmp_path))
