"""Training throughput of both systems, as a fraction of the arithmetic bound measured between its own periods.

The bound is the time of the matrix multiplications alone (`benchmarks.flops`), by two rates:

- `dominating`: all FLOPs at the rate of the plain multiplication x @ w of the largest layer, 128×128, over a
  minibatch's rows. This is the bound that the asked figure is about.
- `own`: each multiplication (forward, weights' gradient, inputs' gradient, thin first layers and heads too) at the
  time measured for its very shape. Thin ones run far below the dominating rate, so this bound is lower and closer.

Every repeat measures each program and each shape once, so that what the machine does meanwhile touches all alike, and
takes its ratios within the repeat. Recording is off here; its cost is the benchmark `recording`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.table import Table

from benchmarks import flops
from benchmarks.harness import Options, Report, all_cores, call_in_process, one_core, summary
from benchmarks.setting import STANDARD, STEPS_PER_UPDATE, SYSTEMS, Learner, chunk_override, make_config
from jax_party.config.systems import PPOConfig

REPEATS: Final = 9
UPDATES: Final = 4
MATMUL_SECONDS: Final = 0.03
TIMEOUT_S: Final = 900.0
ASKED: Final = 0.6
CHUNK_ROWS: Final = 384
"""Rows of a chunk of 128 samples of 3 agents, whose rate is told beside the minibatch's."""


def run(options: Options) -> Report:
    """Measure in a process on one core, as a sweep's trial runs, and in one on all cores."""
    arguments = {"chunks": list(options.chunks), "repeats": options.repeats or REPEATS}
    found = {
        name: call_in_process("benchmarks.throughput:measure", arguments, cores, TIMEOUT_S)
        for name, cores in (("one_core", one_core()), ("all_cores", all_cores()))
    }
    settings = {"overrides": list(STANDARD), "vault": "none", "updates_per_period": UPDATES, **arguments}
    asked = {"one_core.programs.*.fraction_of_dominating_bound": f">= {ASKED}"}
    tables = [_programs_table(name, part) for name, part in found.items()]
    tables.append(_rates_table("one_core", found["one_core"]))
    return Report(settings, found, asked, tables)


# -- In the measured process -------------------------------------------------------------------------------------------


def measure(chunks: Sequence[str], repeats: int) -> dict[str, Any]:
    """Interleaved periods of every program and multiplications of every shape; summaries by name."""
    learners = {
        f"{system} {chunk}": Learner(make_config(system, "vault=none", chunk_override(chunk)))
        for system in SYSTEMS
        for chunk in chunks
    }
    counts = {name: count(learner) for name, learner in learners.items()}
    largest = max((matmul for part in counts.values() for matmul in part), key=_size_of_layer)
    in_chunk = flops.Matmul("forward", CHUNK_ROWS, largest.inputs, largest.outputs)
    matmuls = {matmul: make_matmul(matmul) for matmul in {*(m for part in counts.values() for m in part), in_chunk}}
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    times: dict[flops.Matmul, list[float]] = {matmul: [] for matmul in matmuls}
    for _ in range(repeats):
        for name, learner in learners.items():
            seconds[name].append(learner.advance(UPDATES) / UPDATES)
        for matmul, call in matmuls.items():
            times[matmul].append(call())
    reference = _minibatch_forward(largest, counts)
    return {
        "programs": {name: _compare(seconds[name], counts[name], times, reference) for name in learners},
        "matmuls": [_rate(matmul, times[matmul]) for matmul in sorted(matmuls)],
        "dominating": _rate(reference, times[reference]),
        "dominating_in_a_chunk": _rate(in_chunk, times[in_chunk]),
        "chunk_taken": {name: _chunk_taken(learner) for name, learner in learners.items()},
    }


def count(learner: Learner) -> dict[flops.Matmul, int]:
    """The multiplications of one update, by the shapes of the learner's actual parameters."""
    config, env = learner.config, learner.program.system.env
    assert isinstance(config.system, PPOConfig)
    return flops.update(
        layers(learner.state.params.networks.actor),
        layers(learner.state.params.networks.critic),
        steps=config.system.rollout_length,
        envs=config.arch.num_envs * config.system.update_batch_size,
        agents=env.num_agents,
        epochs=config.system.ppo_epochs,
        minibatches=config.system.num_minibatches,
    )


def layers(params: Any) -> list[tuple[int, int]]:
    """(inputs, outputs) of a network's dense layers, the torso's first, the head last."""
    import jax

    kernels = {
        tuple(str(key.key) for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if str(path[-1].key) == "kernel"
    }
    ordered = sorted(kernels, key=lambda path: ("torso" not in path, path))
    found = [(int(kernels[path][0]), int(kernels[path][1])) for path in ordered]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found)), found
    return found


def make_matmul(matmul: flops.Matmul) -> Callable[[], float]:
    """A function that gives the seconds of one such multiplication, float32, from a loop inside one program."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    rows, inputs, outputs = matmul.rows, matmul.inputs, matmul.outputs
    left, right, axes = {
        "forward": ((rows, inputs), (inputs, outputs), (1, 0)),
        "weights": ((rows, inputs), (rows, outputs), (0, 0)),
        "inputs": ((rows, outputs), (inputs, outputs), (1, 1)),
    }[matmul.kind]

    def multiply(x: jax.Array, y: jax.Array) -> jax.Array:
        return lax.dot_general(x, y, (((axes[0],), (axes[1],)), ((), ())))

    def loop(x: jax.Array, y: jax.Array, times: jax.Array) -> jax.Array:
        def again(_: Any, last: jax.Array) -> jax.Array:
            left, right, _ = lax.optimization_barrier((x, y, last))
            return multiply(left, right)

        return lax.fori_loop(0, times, again, jnp.zeros(jax.eval_shape(multiply, x, y).shape))

    operands = [jax.random.normal(jax.random.PRNGKey(0), shape) for shape in (left, right)]
    # Else XLA does the multiplication once, before the loop.
    keep: dict[str, str | bool] = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
    compiled = jax.jit(loop).lower(*operands, jnp.int32(1)).compile(compiler_options=keep)

    def call(times: int) -> float:
        start = time.perf_counter()
        compiled(*operands, jnp.int32(times)).block_until_ready()
        return (time.perf_counter() - start) / times

    call(1)
    times = max(1, round(MATMUL_SECONDS / min(call(8), call(8))))
    return lambda: call(times)


def _chunk_taken(learner: Learner) -> int | None:
    taken: int | None = getattr(learner.program.system, "chunk_size", None)
    return taken


def _size_of_layer(matmul: flops.Matmul) -> int:
    return matmul.inputs * matmul.outputs


def _minibatch_forward(largest: flops.Matmul, counts: Mapping[str, Mapping[flops.Matmul, int]]) -> flops.Matmul:
    """x @ w of the largest layer over a minibatch's rows: those rows whose weights need a gradient."""
    rows = max(m.rows for part in counts.values() for m in part if m.kind == "weights")
    return flops.Matmul("forward", rows, largest.inputs, largest.outputs)


def _compare(
    seconds: Sequence[float],
    counts: Mapping[flops.Matmul, int],
    times: Mapping[flops.Matmul, Sequence[float]],
    reference: flops.Matmul,
) -> dict[str, Any]:
    """Steps a second, the two bounds, and their ratios repeat by repeat."""
    total = flops.total(counts)
    dominating = [total * one / reference.flops for one in times[reference]]
    own = [sum(times[matmul][i] * number for matmul, number in counts.items()) for i in range(len(seconds))]
    return {
        "steps_per_second": summary([STEPS_PER_UPDATE / one for one in seconds]),
        "flops_per_update": total,
        "dominating_bound_steps_per_second": summary([STEPS_PER_UPDATE / one for one in dominating]),
        "own_bound_steps_per_second": summary([STEPS_PER_UPDATE / one for one in own]),
        "fraction_of_dominating_bound": summary([b / s for b, s in zip(dominating, seconds, strict=True)]),
        "fraction_of_own_bound": summary([b / s for b, s in zip(own, seconds, strict=True)]),
        "gflops": summary([total / one / 1e9 for one in seconds]),
    }


def _rate(matmul: flops.Matmul, times: Sequence[float]) -> dict[str, Any]:
    shape = {"kind": matmul.kind, "rows": matmul.rows, "inputs": matmul.inputs, "outputs": matmul.outputs}
    return shape | {"seconds": summary(times), "gflops": summary([matmul.flops / one / 1e9 for one in times])}


# -- Tables ------------------------------------------------------------------------------------------------------------


def _programs_table(place: str, found: Mapping[str, Any]) -> Table:
    rate = found["dominating"]["gflops"]["median"]
    in_chunk = found["dominating_in_a_chunk"]["gflops"]["median"]
    columns = ("chunk", "steps/s", "least", "bound", "of it", "least", "own", "of it", "least")
    table = Table(
        title=f"Training throughput, {place.replace('_', ' ')}",
        caption=f"bound: all FLOPs at 128×128's {rate:.0f} GFLOP/s ({in_chunk:.0f} in chunks of {CHUNK_ROWS} rows); "
        f"asked: {ASKED:.0%} of it\nown: every multiplication at its own shape's time",
    )  # fmt: skip
    table.add_column("system", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, part in found["programs"].items():
        system, chunk = name.split()
        taken = "whole" if found["chunk_taken"][name] is None else str(found["chunk_taken"][name])
        cells = [system, f"{taken}*" if chunk == "auto" else taken, *_cells(part["steps_per_second"], "{:,.0f}")]
        for bound in ("dominating", "own"):
            cells.append(f"{part[f'{bound}_bound_steps_per_second']['median']:,.0f}")
            cells += _cells(part[f"fraction_of_{bound}_bound"], "{:.0%}")
        table.add_row(*cells)
    return table


def _cells(values: Mapping[str, Any], form: str) -> list[str]:
    return [form.format(values["median"]), form.format(values["min"])]


def _rates_table(place: str, found: Mapping[str, Any]) -> Table:
    table = Table("multiplication", "rows", "layer", "µs", "GFLOP/s", title=f"Bare matmuls, {place.replace('_', ' ')}")
    for one in found["matmuls"]:
        seconds, rate = one["seconds"]["median"], one["gflops"]["median"]
        layer = f"{one['inputs']}→{one['outputs']}"
        table.add_row(one["kind"], f"{one['rows']:,}", layer, f"{seconds * 1e6:,.1f}", f"{rate:.1f}")
    return table
