"""The compiled functions of one static configuration, shared by all experiments in the process that have it.

A learner is one seed of one experiment. Each function serves one learner, or several at once: then it is the `vmap` of
the single one, all its arguments and results have a leading axis of learners, and it is compiled for that number.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray, PyTree

from jax_party.config import Budget, ExperimentConfig, static_key, traced_part, without_values
from jax_party.envs.adapter import make_environment
from jax_party.envs.wrappers import EnvState
from jax_party.errors import ConfigError
from jax_party.runtime import return_freed_memory
from jax_party.systems.base import Hyper, LearnerState, System, UpdateOutput
from jax_party.systems.registry import system_class
from jax_party.training.evaluation import Evaluation, evaluate

_COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    "begin": {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False},
    "init": {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False},
    "evaluate": {"xla_backend_optimization_level": 1},
}
"""`begin` and `init` run once: optimising them costs three seconds and saves none. `evaluate` is as fast at level 1 and
compiles in a quarter less time."""


FUNCTIONS = ("update", "evaluate", "init", "begin")
"""The functions of a program, the slowest to compile first."""


_CACHE_EVENTS = "/jax/compilation_cache/"
_REQUESTS, _HITS, _SAVED = "compile_requests_use_cache", "cache_hits", "compile_time_saved_sec"
_persistent_cache = dict.fromkeys((_REQUESTS, _HITS, _SAVED), 0.0)
"""What JAX has reported about its persistent compilation cache in this process: numbers of events, and seconds."""


def _count(event: str, **_: Any) -> None:
    _add(event, 1.0)


def _add(event: str, duration_secs: float, **_: Any) -> None:
    name = event.removeprefix(_CACHE_EVENTS)
    if name in _persistent_cache:
        _persistent_cache[name] += duration_secs


class CacheCounts(NamedTuple):
    """XLA's persistent compilation cache in this process: the number of programs not found in it, and seconds saved."""

    misses: int
    saved_s: float


def cache_counts() -> CacheCounts:
    """Return the counts so far."""
    return CacheCounts(int(_persistent_cache[_REQUESTS] - _persistent_cache[_HITS]), _persistent_cache[_SAVED])


jax.monitoring.register_event_listener(_count)
jax.monitoring.register_event_duration_secs_listener(_add)


class Program:
    """The compiled functions of one static configuration.

    Args:
      config: only its static part is read.

    Attributes:
      system: the system that the functions belong to.
      devices: what they run on.
      compiled: the functions compiled so far, by name and number of learners at once.
      compile_seconds: spent tracing and compiling so far.
      saved_seconds: of compiling, saved by XLA's persistent cache.
      cache_misses: programs that were not in that cache.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        config = without_values(config)
        self.devices = _take_devices(config.arch.num_devices)
        self._mesh = Mesh(np.array(self.devices), ("env",)) if len(self.devices) > 1 else None
        env = make_environment(config.env)
        cls = system_class(config.system.name)
        chunk_size = _chunk_size(config, self.devices, cls.cpu_chunk_size)
        self.system: System = cls(config, env, chunk_size, self._mesh)
        self.compile_seconds = 0.0
        self.saved_seconds = 0.0
        self.cache_misses = 0
        self.compiled: dict[tuple[str, int], Callable[..., Any]] = {}
        self._begin, self._init = jax.jit(self.system.begin), jax.jit(self.system.init)  # kept, so traced once
        self._state_shape: LearnerState | None = None
        self._num_episodes = config.arch.num_eval_episodes
        self._greedy = config.arch.evaluation_greedy
        self._record_test = config.vault.record_test

    def compile(self, hyper: Hyper, names: Sequence[str] = FUNCTIONS, learners: int = 1) -> None:
        """Compile functions that have not been compiled yet, in parallel: XLA uses a core for each, if available.

        Args:
          hyper: that of one learner; only shapes are read.
          names: some of `FUNCTIONS`.
          learners: how many learners at once.
        """
        missing = [name for name in names if (name, learners) not in self.compiled]
        if not missing:
            return
        start, cache = time.perf_counter(), cache_counts()
        with ThreadPoolExecutor(len(missing)) as pool:
            options = {name: _COMPILER_OPTIONS.get(name) for name in missing}
            futures = {
                (name, learners): pool.submit(self._lower(name, hyper, learners).compile, options[name])
                for name in missing
            }
            self.compiled.update({name: future.result() for name, future in futures.items()})
        return_freed_memory()
        self.compile_seconds += time.perf_counter() - start
        now = cache_counts()
        self.saved_seconds += now.saved_s - cache.saved_s
        self.cache_misses += now.misses - cache.misses

    def begin(self, hyper: Hyper, key: PRNGKeyArray) -> EnvState:
        """Return a learner's environments at the start."""
        self.compile(hyper, ("begin",))
        envs: EnvState = self.compiled["begin", 1](hyper, key)
        return envs

    def init(self, hyper: Hyper, key: PRNGKeyArray) -> LearnerState:
        """Return a learner's state at the start."""
        self.compile(hyper, ("begin", "init"))
        state: LearnerState = self.compiled["init", 1](hyper, key, self.begin(hyper, key))
        return state

    def update(self, hyper: Hyper, state: LearnerState) -> tuple[LearnerState, UpdateOutput]:
        """Perform one update; `state` is donated."""
        self.compile(hyper, ("update",))
        result: tuple[LearnerState, UpdateOutput] = self.compiled["update", 1](hyper, state)
        return result

    def evaluate(self, hyper: Hyper, params: PyTree, key: PRNGKeyArray) -> Evaluation:
        """Perform one evaluation of `arch.num_eval_episodes` episodes."""
        self.compile(hyper, ("evaluate",))
        evaluation: Evaluation = self.compiled["evaluate", 1](hyper, params, key)
        return evaluation

    def state_shape(self, hyper: Hyper) -> LearnerState:
        """Return shapes, dtypes and shardings of the learner's state, without computing it."""
        if self._state_shape is not None:
            return self._state_shape
        shapes = self._shapes(hyper)
        shardings = self.state_sharding(hyper) or jax.tree.map(
            lambda _: jax.sharding.SingleDeviceSharding(self.devices[0]), shapes
        )
        self._state_shape = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        return self._state_shape

    def state_sharding(self, hyper: Hyper) -> Any:
        """Return the state's shardings: environments, memories and replay over the mesh, the rest replicated.

        None on a single device.
        """
        if self._mesh is None:
            return None
        shapes = self._shapes(hyper)
        spread, everywhere = NamedSharding(self._mesh, PartitionSpec("env")), self._replicated()
        shardings = jax.tree.map(lambda _: everywhere, shapes)
        envs = shapes.envs
        spread_envs = jax.tree.map(lambda _: spread, envs)
        episodes = jax.tree.map(lambda _: everywhere, envs.episodes)._replace(
            running_return=spread, running_length=spread
        )
        by_rows = functools.partial(jax.tree.map, lambda leaf: spread if leaf.ndim else everywhere)
        return shardings._replace(
            envs=spread_envs._replace(episodes=episodes), memory=by_rows(shapes.memory), replay=by_rows(shapes.replay)
        )

    def _shapes(self, hyper: Hyper) -> LearnerState:
        key = jax.random.PRNGKey(0)
        envs = self._begin.eval_shape(hyper, key)
        shapes: LearnerState = self._init.eval_shape(hyper, key, envs)
        return shapes

    def put(self, tree: PyTree) -> PyTree:
        """Place arrays on the program's devices, replicated on each."""
        return jax.device_put(tree, self._replicated() if self._mesh else self.devices[0])

    def _replicated(self) -> NamedSharding:
        assert self._mesh is not None
        return NamedSharding(self._mesh, PartitionSpec())

    def _lower(self, name: str, hyper: Hyper, learners: int) -> jax.stages.Lowered:
        """Trace a function of the program."""
        key = jax.random.PRNGKey(0)
        if name == "begin":
            begin = self._begin
            if self._mesh:
                begin = jax.jit(self.system.begin, out_shardings=self.state_sharding(hyper).envs)
            return begin.lower(hyper, key)
        state = self.state_shape(hyper)
        if name == "init":
            init = jax.jit(self.system.init, out_shardings=self.state_sharding(hyper)) if self._mesh else self._init
            return init.lower(hyper, key, state.envs)
        play = functools.partial(
            evaluate, self.system, num_episodes=self._num_episodes, greedy=self._greedy, record=self._record_test
        )
        if learners > 1:
            hyper, state, key = (_repeated(shapes, learners) for shapes in (hyper, state, key))
            if name == "update":
                return jax.jit(jax.vmap(self.system.update), donate_argnums=(1,)).lower(hyper, state)
            return jax.jit(jax.vmap(play)).lower(hyper, state.params, key)
        if name == "update":
            out = (self.state_sharding(hyper), self._replicated()) if self._mesh else None
            return jax.jit(self.system.update, donate_argnums=(1,), out_shardings=out).lower(hyper, state)
        return jax.jit(play).lower(hyper, state.params, key)


def _repeated(tree: PyTree, learners: int) -> PyTree:
    """Return shapes and dtypes of `tree` with a leading axis of learners."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((learners, *jnp.shape(leaf)), leaf.dtype), tree)


@functools.lru_cache(maxsize=8)
def _program(key: str, keep: _ByKey) -> Program:
    return Program(keep.config)


@dataclasses.dataclass(frozen=True)
class _ByKey:
    """A config that compares equal to any other, so that a cache uses only the static key."""

    config: ExperimentConfig

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByKey)

    def __hash__(self) -> int:
        return 0


def get_program(config: ExperimentConfig) -> Program:
    """Return the program for a config: one per static configuration and process."""
    return _program(static_key(config), _ByKey(config))


def make_hyper(config: ExperimentConfig, budget: Budget) -> Hyper:
    """Return the traced numbers of a config, as float32 arrays."""
    traced = traced_part(config)
    env = traced.get("env", {}).get("scenario", {}).get("task_config", {})
    return jax.tree.map(np.float32, Hyper(traced["system"], env, jnp.float32(budget.num_updates)))


def _take_devices(number: int) -> list[jax.Device]:
    available = jax.devices()
    if number > len(available):
        raise ConfigError(
            f"arch.num_devices: {number}, but this process sees {len(available)} ({available[0].platform})"
        )
    return list(available[:number])


def _chunk_size(config: ExperimentConfig, devices: list[jax.Device], on_cpu_core: int | None) -> int | None:
    asked = config.arch.gradient_chunk_size
    if asked != "auto":
        return asked
    one_cpu_core = len(devices) == 1 and devices[0].platform == "cpu" and usable_cores() == 1
    return on_cpu_core if one_cpu_core else None


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return int(os.environ.get("NPROC", len(os.sched_getaffinity(0))))
