"""Every system: training throughput beside its arithmetic bound, gradient steps, and cold compile time.

Each system runs in a process of its own on one core, as a sweep's trial does, with an empty compilation cache: 32
environments, networks at their defaults (the papers' sizes), on-policy systems with 128 steps to a rollout. The bound
is the time of the update's matrix multiplications alone (`benchmarks.matmuls`) at the rate of one plain 128×128
multiplication over 6,144 rows, measured between the system's own periods. Compilation is timed there function by
function, and once more as `make run` does it: all functions at a time, on all cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any, Final

from rich.table import Table

from benchmarks import flops
from benchmarks.compile import FUNCTIONS, compile_functions
from benchmarks.harness import Options, Report, all_cores, call_in_process, one_core, summary
from benchmarks.speeds import write_speeds
from jax_party.engines import NATIVE
from mava_configs import ALGORITHMS

REPEATS: Final = 5
TIMEOUT_S: Final = 600.0
STEPS_PER_PERIOD: Final = 8192
REFERENCE: Final = flops.Matmul("forward", 6144, 128, 128)
PEER: Final = {"rec_ippo": 2500, "rec_mappo": 2500, "ff_sable": 2900, "mat": 2000}
"""Steps/s of March 2025's Mava on such a machine, to be beaten by half."""
ASKED_COMPILE_S: Final = 20.0


def run(options: Options) -> Report:
    """One process a system."""
    repeats = options.repeats or REPEATS
    names = options.systems or ALGORITHMS
    results = {}
    for system in names:
        with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
            results[system] = call_in_process(
                "benchmarks.systems:measure",
                {"system": system, "repeats": repeats},
                one_core(),
                TIMEOUT_S,
                JAX_COMPILATION_CACHE_DIR=cache,
            )
        with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
            results[system]["compile"]["together_s"] = call_in_process(
                "benchmarks.systems:measure_together",
                {"system": system},
                all_cores(),
                TIMEOUT_S,
                JAX_COMPILATION_CACHE_DIR=cache,
                NPROC="1",
            )
    if options.docs:
        rates = {name: one["steps_per_second"]["median"] for name, one in results.items()}
        write_speeds(NATIVE, {name: (rates[name], one["compile"]["total_s"]) for name, one in results.items()})
    asked = {f"{name}.steps_per_second": f">= {1.5 * peer:.0f}" for name, peer in PEER.items() if name in names}
    asked["*.compile.together_s"] = f"< {ASKED_COMPILE_S:.0f} s"
    return Report({"repeats": repeats, "steps_per_period": STEPS_PER_PERIOD}, results, asked, [_table(results)])


# -- In the measured process -------------------------------------------------------------------------------------------


def measure(system: str, repeats: int) -> dict[str, Any]:
    """Compile from nothing, then periods of training and of the reference multiplication by turns."""
    import jax

    from benchmarks import matmuls
    from benchmarks.setting import Learner, make_config
    from benchmarks.throughput import make_matmul
    from jax_party.config import make_budget

    config = make_config(system, "vault=none")
    compiled = compile_functions(config)
    learner = Learner(config)
    steps = make_budget(config).steps_per_update
    update = jax.make_jaxpr(learner.program.system.update)(learner.hyper, learner.state)
    per_step = matmuls.count(update.jaxpr) / steps
    updates = max(1, round(STEPS_PER_PERIOD / steps))
    gradient_steps = _warm_up(learner)
    reference = make_matmul(REFERENCE)
    seconds, rates = [], []
    for _ in range(repeats):
        rates.append(REFERENCE.flops / reference())
        seconds.append(learner.advance(updates) / updates)
    bound = [rate / per_step for rate in rates]
    return {
        "compile": compiled,
        "flops_per_step": per_step,
        "steps_per_update": steps,
        "gradient_steps_per_update": gradient_steps,
        "reference_gflops": summary([rate / 1e9 for rate in rates]),
        "steps_per_second": summary([steps / one for one in seconds]),
        "gradient_steps_per_second": summary([gradient_steps / one for one in seconds]),
        "bound_steps_per_second": summary(bound),
        "fraction_of_bound": summary([steps / one / most for one, most in zip(seconds, bound, strict=True)]),
    }


def measure_together(system: str) -> float:
    """Seconds of tracing and compiling from nothing as an experiment does it: all functions at a time, all cores."""
    import jax

    from benchmarks.setting import make_config
    from jax_party.config import make_budget
    from jax_party.training.program import Program, make_hyper

    config = make_config(system, "vault=none")
    program = Program(config)
    hyper = program.put(make_hyper(config, make_budget(config)))
    program.begin(hyper, jax.random.PRNGKey(0))
    program.compile(hyper)
    return program.compile_seconds


def _warm_up(learner: Any) -> int:
    """Update until gradient steps are taken; returns how many there are to an update."""
    system = learner.config.system
    if hasattr(system, "ppo_epochs"):
        return int(system.ppo_epochs * system.num_minibatches)
    while True:
        learner.state, output = learner.program.update(learner.hyper, learner.state)
        if taken := int(output.losses["gradient_steps"]):
            return taken


# -- Table -------------------------------------------------------------------------------------------------------------


def _table(results: Mapping[str, Any]) -> Table:
    table = Table(
        title="Every system, one core",
        caption="bound: the update's matrix multiplications at the plain 128×128 rate; asked: 1.5 × a peer's steps/s",
    )
    table.add_column("system", no_wrap=True)
    columns = (
        "steps/s",
        "least",
        "asked",
        "bound",
        "of it",
        "grad steps/s",
        "kFLOP/step",
        *FUNCTIONS,
        "compile s",
        "2 cores s",
    )
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, part in results.items():
        speed = part["steps_per_second"]
        parts = part["compile"]["functions"]
        table.add_row(
            name,
            f"{speed['median']:,.0f}",
            f"{speed['min']:,.0f}",
            f"{1.5 * PEER[name]:,.0f}" if name in PEER else "",
            f"{part['bound_steps_per_second']['median']:,.0f}",
            f"{part['fraction_of_bound']['median']:.0%}",
            f"{part['gradient_steps_per_second']['median']:,.1f}",
            f"{part['flops_per_step'] / 1e3:,.0f}",
            *(f"{parts[function]['total_s']:.1f}" for function in FUNCTIONS),
            f"{part['compile']['total_s']:.1f}",
            f"{part['compile']['together_s']:.1f}",
        )
    return table
