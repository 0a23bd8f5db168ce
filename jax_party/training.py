"""The one outer loop: train a period, evaluate, record, checkpoint.

`Experiment` owns time, evaluation, recording, checkpoints and resume; a system owns its losses. `Program` holds
the compiled functions of one static configuration, shared by every experiment in the process that agrees on it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray, PyTree

from jax_party import records
from jax_party.checkpointing import Checkpoints
from jax_party.config import (
    Budget,
    ExperimentConfig,
    compile_signature,
    make_budget,
    static_key,
    traced_part,
    without_values,
)
from jax_party.environments import Observation, make_environment, refuse_no_legal_action
from jax_party.errors import ConfigError, TrainingDiverged
from jax_party.evaluation import Evaluation, evaluate
from jax_party.records import State, TrialRecord, VaultEntry
from jax_party.systems.base import Hyper, LearnerState, System, UpdateOutput
from jax_party.systems.registry import system_class
from jax_party.vault import VaultWriter

_logger = logging.getLogger(__name__)


_COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    "init": {"xla_backend_optimization_level": 0},
    "evaluate": {"xla_backend_optimization_level": 1},
}
"""`init` runs once: optimising it costs two seconds and saves none. `evaluate` is as fast at level 1 and compiles a
quarter sooner."""


FUNCTIONS = ("update", "evaluate", "init")
"""What a program is made of; what takes longest to compile first."""


class Program:
    """The compiled functions of one static configuration.

    Args:
      config: only its static part is read.

    Attributes:
      system: the system that the functions belong to.
      devices: what they run on.
      compiled: the functions compiled so far, by name.
      compile_seconds: spent tracing and compiling so far.
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
        self.compiled: dict[str, Callable[..., Any]] = {}
        self._state_shape: LearnerState | None = None
        self._num_episodes = config.arch.num_eval_episodes
        self._greedy = config.arch.evaluation_greedy
        self._record_test = config.vault.record_test

    def compile(self, hyper: Hyper, names: Sequence[str] = FUNCTIONS) -> None:
        """Compile functions that have not been yet, all at a time: XLA gives each a core, where there is one."""
        missing = [name for name in names if name not in self.compiled]
        if not missing:
            return
        start = time.perf_counter()
        with ThreadPoolExecutor(len(missing)) as pool:
            options = {name: _COMPILER_OPTIONS.get(name) for name in missing}
            futures = {name: pool.submit(self._lower(name, hyper).compile, options[name]) for name in missing}
            self.compiled.update({name: future.result() for name, future in futures.items()})
        self.compile_seconds += time.perf_counter() - start

    def first_observations(self, hyper: Hyper, key: PRNGKeyArray) -> Observation:
        """What all agents see when episodes begin, leading axis E; by a small program of its own, not kept."""
        start = time.perf_counter()
        reset = jax.jit(lambda hyper, key: self.system.envs_under(hyper).reset(key).observation)
        compiled = reset.lower(hyper, key).compile(_COMPILER_OPTIONS["init"])
        self.compile_seconds += time.perf_counter() - start
        observation: Observation = compiled(hyper, key)
        return observation

    def init(self, hyper: Hyper, key: PRNGKeyArray) -> LearnerState:
        """The learner's state at the start."""
        self.compile(hyper, ("init",))
        state: LearnerState = self.compiled["init"](hyper, key)
        return state

    def update(self, hyper: Hyper, state: LearnerState) -> tuple[LearnerState, UpdateOutput]:
        """One update; `state` is donated."""
        self.compile(hyper, ("update",))
        result: tuple[LearnerState, UpdateOutput] = self.compiled["update"](hyper, state)
        return result

    def evaluate(self, hyper: Hyper, params: PyTree, key: PRNGKeyArray) -> Evaluation:
        """One evaluation of `arch.num_eval_episodes` episodes."""
        self.compile(hyper, ("evaluate",))
        evaluation: Evaluation = self.compiled["evaluate"](hyper, params, key)
        return evaluation

    def state_shape(self, hyper: Hyper) -> LearnerState:
        """Shapes, dtypes and shardings of the learner's state, without computing it."""
        if self._state_shape is not None:
            return self._state_shape
        shapes: LearnerState = jax.eval_shape(self.system.init, hyper, jax.random.PRNGKey(0))
        shardings = self.state_sharding(hyper) or jax.tree.map(
            lambda _: jax.sharding.SingleDeviceSharding(self.devices[0]), shapes
        )
        self._state_shape = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        return self._state_shape

    def state_sharding(self, hyper: Hyper) -> Any:
        """Environments, memories and replay spread over the mesh, all else on every device; None on a single device."""
        if self._mesh is None:
            return None
        shapes = jax.eval_shape(self.system.init, hyper, jax.random.PRNGKey(0))
        spread, everywhere = NamedSharding(self._mesh, PartitionSpec("env")), self._replicated()
        shardings = jax.tree.map(lambda _: everywhere, shapes)
        envs = shapes.envs
        spread_envs = jax.tree.map(lambda _: spread, envs._replace(episodes=()))
        episodes = jax.tree.map(lambda _: everywhere, envs.episodes)._replace(
            running_return=spread, running_length=spread
        )
        by_rows = functools.partial(jax.tree.map, lambda leaf: spread if leaf.ndim else everywhere)
        return shardings._replace(
            envs=spread_envs._replace(episodes=episodes), memory=by_rows(shapes.memory), replay=by_rows(shapes.replay)
        )

    def put(self, tree: PyTree) -> PyTree:
        """Place arrays on the program's devices, the same on each."""
        return jax.device_put(tree, self._replicated() if self._mesh else self.devices[0])

    def _replicated(self) -> NamedSharding:
        assert self._mesh is not None
        return NamedSharding(self._mesh, PartitionSpec())

    def _lower(self, name: str, hyper: Hyper) -> jax.stages.Lowered:
        """Trace a function of the program."""
        key = jax.random.PRNGKey(0)
        if name == "init":
            return jax.jit(self.system.init, out_shardings=self.state_sharding(hyper)).lower(hyper, key)
        state = self.state_shape(hyper)
        if name == "update":
            out = (self.state_sharding(hyper), self._replicated()) if self._mesh else None
            return jax.jit(self.system.update, donate_argnums=(1,), out_shardings=out).lower(hyper, state)
        play = functools.partial(
            evaluate, self.system, num_episodes=self._num_episodes, greedy=self._greedy, record=self._record_test
        )
        return jax.jit(play).lower(hyper, state.params, key)


@functools.lru_cache(maxsize=8)
def _program(key: str, keep: _ByKey) -> Program:
    return Program(keep.config)


@dataclasses.dataclass(frozen=True)
class _ByKey:
    """Carries a config past a cache that is to look at its static key alone."""

    config: ExperimentConfig

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByKey)

    def __hash__(self) -> int:
        return 0


def get_program(config: ExperimentConfig) -> Program:
    """The program for a config: one a static part and process."""
    return _program(static_key(config), _ByKey(config))


def make_hyper(config: ExperimentConfig, budget: Budget) -> Hyper:
    """The traced numbers of a config, as float32 arrays."""
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
    one_cpu_core = len(devices) == 1 and devices[0].platform == "cpu" and _cores() == 1
    return on_cpu_core if one_cpu_core else None


def _cores() -> int:
    return int(os.environ.get("NPROC", len(os.sched_getaffinity(0))))


class Experiment:
    """One trial: a folder, and the training that fills it.

    A folder that was begun before is taken up where its newest checkpoint stands: metrics and vaults behind it are cut
    off and made again, bit for bit.

    Args:
      config: the experiment.
      folder: the trial's folder, with `config.yaml` and `record.json` in it (`records.create_trial_folder`).

    Raises:
      RecordError, VaultError, CheckpointError: the folder cannot be taken up.
    """

    def __init__(self, config: ExperimentConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.budget = make_budget(config)
        self.record: TrialRecord = records.read_record(folder)
        self._vaults: dict[str, VaultWriter] = {}
        self.evaluations = 0
        self._state: LearnerState
        self._best_params: PyTree
        self._best_value = -math.inf
        self._trained_seconds = 0.0
        self._started = time.perf_counter()
        self._duration_before = 0.0
        if self.record.state in records.FINISHED:
            return
        self._program = get_program(config)
        self._compile_before = self._program.compile_seconds
        self.hyper: Hyper = self._program.put(make_hyper(config, self.budget))
        checkpointing = config.logger.checkpointing
        self._checkpoints = Checkpoints(folder / "checkpoints", checkpointing.save_args.max_to_keep)
        self._eval_key, self._absolute_key, init_key = jax.random.split(jax.random.PRNGKey(config.system.seed), 3)
        try:
            self._open_vaults()
            self._begin_record()
            self._restore_or_init(init_key)
        except BaseException:
            self.close()  # a retry in this process must not meet our own locks
            raise

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.record.state in records.FINISHED

    @property
    def env_steps(self) -> int:
        """Environment steps trained so far."""
        return self.evaluations * self.budget.steps_per_evaluation

    def step(self) -> dict[str, Any]:
        """Play one evaluation period; the last one ends with the absolute metric.

        Returns:
          `evaluation`, `env_steps`, `steps_per_second`, `finished`, and the evaluation's mean metrics by name. A
          finished experiment gives its last evaluation again.

        Raises:
          TrainingDiverged: a loss is not finite; the record says FAILED and why.
        """
        if self.finished:
            return self._last_result()
        if self.evaluations < self.budget.num_evaluations:
            self._train_and_evaluate()
        if self.evaluations == self.budget.num_evaluations:
            self._finish()
        return self._last_result()

    def close(self) -> None:
        """Release files and threads; calling it twice is fine."""
        for vault in self._vaults.values():
            vault.close()
        self._vaults = {}
        if hasattr(self, "_checkpoints"):
            self._checkpoints.close()

    # -- One period --------------------------------------------------------------------------------------------------

    def _train_and_evaluate(self) -> None:
        losses, train_seconds = self._train()
        self.evaluations += 1
        self._trained_seconds += train_seconds
        start = time.perf_counter()
        key = jax.random.fold_in(self._eval_key, self.evaluations)
        evaluation = self._program.evaluate(self.hyper, self._state.params, key)
        episodes = {name: np.asarray(values) for name, values in evaluation.episodes.items()}
        if "test" in self._vaults:
            self._vaults["test"].submit(evaluation.trajectory)
        means = _means(episodes)
        self._keep_best(means)
        row = {
            "evaluation": self.evaluations,
            "step": self.env_steps,
            "seed": self.config.system.seed,
            "wall_time_s": self._duration(),
            "evaluate": means,
            "episodes": _per_episode(episodes),
            "train": losses | {"steps_per_second": self.budget.steps_per_evaluation / train_seconds},
            "evaluation_time_s": time.perf_counter() - start,
        }
        self._save(row)

    def _train(self) -> tuple[dict[str, float], float]:
        """One period of updates; mean losses, and seconds of training (compile time left out)."""
        compiled = self._program.compile_seconds
        start = time.perf_counter()
        outputs = []
        for index in range(self.budget.updates_per_evaluation):
            self._state, output = self._program.update(self.hyper, self._state)
            number = self.evaluations * self.budget.updates_per_evaluation + index
            if "train" in self._vaults and number % self.config.vault.every == 0:
                self._vaults["train"].submit(output.trajectory)
            outputs.append(output.losses)
        jax.block_until_ready(self._state)
        seconds = time.perf_counter() - start - (self._program.compile_seconds - compiled)
        losses = _mean_losses(outputs)
        self._refuse_nonfinite(losses, outputs)
        return losses | self._training_episodes(), seconds

    def _training_episodes(self) -> dict[str, float]:
        """Mean return and length of the training episodes that ended in this period, where any did."""
        episodes = self._state.envs.episodes
        finished = float(episodes.finished)
        self._state = self._state._replace(envs=self._state.envs._replace(episodes=_cleared(episodes)))
        if not finished:
            return {}
        return {
            "episode_return": float(np.mean(episodes.finished_return)) / finished,
            "episode_length": float(episodes.finished_length) / finished,
        }

    def _refuse_nonfinite(self, losses: dict[str, float], outputs: list[dict[str, jax.Array]]) -> None:
        """Fail the trial where a loss, or a parameter after the last update, is not finite."""
        done = self.evaluations * self.budget.updates_per_evaluation
        for name, mean in losses.items():
            if not math.isfinite(mean):
                bad = next((i for i, output in enumerate(outputs) if not np.isfinite(output[name])), 0)
                self._diverged(f"{name} became {float(outputs[bad][name])}", done + bad + 1)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self._state.params)):
            self._diverged("a parameter is not finite", done + len(outputs))

    def _diverged(self, what: str, update: int) -> NoReturn:
        reason = f"{what} in update {update} (step {update * self.budget.steps_per_update:,})"
        self._update_record(state=State.FAILED, error=f"TrainingDiverged: {reason}", ended_at=records.timestamp())
        raise TrainingDiverged(f"{self.record.trial_id}: {reason}; try a smaller learning rate or gradient norm")

    def _keep_best(self, means: dict[str, float | None]) -> None:
        objective = self.record.objective
        value = means.get(objective.metric)
        if value is None:
            if objective.metric not in means:
                known = ", ".join(sorted(means))
                raise ConfigError(f"objective: metric {objective.metric}: not among the evaluation's metrics: {known}")
            return
        signed = value if objective.mode == "max" else -value
        if signed > self._best_value:
            self._best_value = signed
            self._best_params = jax.tree.map(jnp.copy, self._state.params)

    # -- On disk -----------------------------------------------------------------------------------------------------

    def _save(self, row: dict[str, Any]) -> None:
        """Vault, then metrics, then checkpoint, then record: a kill between any two is undone by `_restore_or_init`."""
        for vault in self._vaults.values():
            vault.flush()
        records.append_metrics(self.folder, row)
        checkpointing = self.config.logger.checkpointing
        checkpoint = self.record.checkpoint
        if checkpointing.save_model and (
            self.evaluations % checkpointing.save_args.save_interval_steps == 0
            or self.evaluations == self.budget.num_evaluations
        ):
            path = self._checkpoints.save(self.env_steps, self._checkpoint_tree())
            checkpoint = str(path.relative_to(self.folder.resolve()))
        if self.config.logger.use_json:
            records.write_marl_eval(self.folder)
        self._update_record(checkpoint=checkpoint)

    def _checkpoint_tree(self) -> dict[str, Any]:
        return {
            "learner": self._state,
            "best_params": self._best_params,
            "progress": {
                "evaluations": np.asarray(self.evaluations, np.int32),
                "best_value": np.asarray(self._best_value, np.float64),
                "trained_seconds": np.asarray(self._trained_seconds, np.float64),
                "compile_seconds": np.asarray(self._compile_seconds(), np.float64),
                "duration": np.asarray(self._duration(), np.float64),
                "train_vault_steps": np.asarray(self._vault_steps("train"), np.int64),
                "test_vault_steps": np.asarray(self._vault_steps("test"), np.int64),
            },
        }

    def _restore_or_init(self, init_key: PRNGKeyArray) -> None:
        shape = self._program.state_shape(self.hyper)
        progress = {
            "evaluations": np.asarray(0, np.int32),
            **dict.fromkeys(("best_value", "trained_seconds", "compile_seconds", "duration"), np.zeros((), np.float64)),
            **dict.fromkeys(("train_vault_steps", "test_vault_steps"), np.zeros((), np.int64)),
        }
        target = {"learner": shape, "best_params": shape.params, "progress": progress}
        restored = self._checkpoints.restore(target) if self._checkpoints.steps() else None
        if restored is None:
            self._compile(init_key)
            self._state = self._program.init(self.hyper, init_key)
            self._best_params = jax.tree.map(jnp.copy, self._state.params)
            steps = dict.fromkeys(self._vaults, 0)
        else:
            tree = restored[1]
            self._state, self._best_params, progress = tree["learner"], tree["best_params"], tree["progress"]
            self.evaluations = int(progress["evaluations"])
            self._best_value = float(progress["best_value"])
            self._trained_seconds = float(progress["trained_seconds"])
            self._duration_before = float(progress["duration"])
            self._compile_before -= float(progress["compile_seconds"])
            steps = {kind: int(progress[f"{kind}_vault_steps"]) for kind in self._vaults}
            self._program.compile(self.hyper, ("update", "evaluate"))
            _logger.info("%s: resumed at step %d", self.record.trial_id, self.env_steps)
        for kind, vault in self._vaults.items():
            vault.truncate(steps[kind])
        records.truncate_metrics(self.folder, self.env_steps)

    def _compile(self, key: PRNGKeyArray) -> None:
        """All functions at a time, once the environment is known to be playable."""
        if not self._program.compiled:
            observation = self._program.first_observations(self.hyper, key)
            refuse_no_legal_action(observation, self.config.env.scenario.task_name)
        self._program.compile(self.hyper)

    def _open_vaults(self) -> None:
        config, uid = self.config.vault, self.record.trial_id
        rows = {
            "train": self.config.arch.num_envs * self.config.system.update_batch_size,
            "test": self.config.arch.num_eval_episodes,
        }
        wanted = {"train": config.record_train, "test": config.record_test}
        names = {"train": uid, "test": f"{uid}-test"}
        for kind, number in rows.items():
            if not wanted[kind]:
                continue
            limit = None if config.max_transitions is None else config.max_transitions // number
            metadata = {
                "trial_id": uid,
                "kind": kind,
                "config": records.read_config(self.folder),
                "provenance": records.provenance(),
            }
            self._vaults[kind] = VaultWriter(self.folder, names[kind], metadata, limit)

    def _begin_record(self) -> None:
        versions = records.provenance()
        device = self._program.devices[0]
        described = f"cpu:{_cores()}" if device.platform == "cpu" else device.device_kind
        if len(self._program.devices) > 1:
            described = f"{len(self._program.devices)} x {described}"
        self._update_record(
            state=State.RUNNING,
            attempts=self.record.attempts + 1,
            started_at=self.record.started_at or records.timestamp(),
            error=None,
            device=described,
            host=versions["host"],
            git_sha=versions["git_sha"],
            git_dirty=versions["git_dirty"],
            versions=versions["versions"],
            compile_signature=compile_signature(self.config, device.device_kind, jax.__version__),
            total_steps=self.budget.total_steps,
        )

    def _finish(self) -> None:
        """The absolute metric: the best parameters over many episodes; then the record is COMPLETE."""
        absolute = None
        if self.config.arch.absolute_metric:
            episodes = self._evaluate_best()
            absolute = _means(episodes)
            if not any(row.get("absolute") for row in records.read_metrics(self.folder)):
                row = {
                    "evaluation": self.evaluations,
                    "step": self.env_steps,
                    "seed": self.config.system.seed,
                    "wall_time_s": self._duration(),
                    "evaluate": absolute,
                    "episodes": _per_episode(episodes),
                    "train": {},
                    "absolute": True,
                }
                records.append_metrics(self.folder, row)
        if self.config.logger.use_json:
            records.write_marl_eval(self.folder)
        self._update_record(state=State.COMPLETE, absolute_metrics=absolute, ended_at=records.timestamp())

    def _evaluate_best(self) -> dict[str, np.ndarray]:
        wanted = self.config.arch.num_absolute_metric_eval_episodes
        parts = []
        for index in range(math.ceil(wanted / self.config.arch.num_eval_episodes)):
            key = jax.random.fold_in(self._absolute_key, index)
            parts.append(self._program.evaluate(self.hyper, self._best_params, key).episodes)
        return {name: np.concatenate([np.asarray(part[name]) for part in parts])[:wanted] for name in parts[0]}

    def _update_record(self, **changes: Any) -> None:
        if self.evaluations:
            trained = max(self._trained_seconds, 1e-9)
            changes |= {
                "env_steps": self.env_steps,
                "steps_per_second": self.env_steps / trained,
                "vaults": self._vault_entries(),
            }
        changes |= {"duration_s": self._duration(), "compile_time_s": self._compile_seconds()}
        self.record = records.update_record(self.folder, **changes)

    def _vault_entries(self) -> tuple[VaultEntry, ...]:
        return tuple(VaultEntry(vault.uid, kind, vault.rows, vault.steps) for kind, vault in self._vaults.items())

    def _vault_steps(self, kind: str) -> int:
        return self._vaults[kind].steps if kind in self._vaults else 0

    def _duration(self) -> float:
        return self._duration_before + time.perf_counter() - self._started

    def _compile_seconds(self) -> float:
        return self._program.compile_seconds - self._compile_before

    def _last_result(self) -> dict[str, Any]:
        rows = [row for row in records.read_metrics(self.folder) if not row.get("absolute")]
        last: dict[str, Any] = rows[-1] if rows else {"evaluation": 0, "step": 0, "evaluate": {}}
        return {
            "evaluation": last["evaluation"],
            "env_steps": last["step"],
            "steps_per_second": self.record.steps_per_second,
            "finished": self.finished,
            **{name: math.nan if value is None else value for name, value in last["evaluate"].items()},
        }


def _mean_losses(outputs: list[dict[str, jax.Array]]) -> dict[str, float]:
    """Means over updates; where updates tell how many gradient steps they took, over those, and none without any."""
    losses = {name: np.asarray([output[name] for output in outputs], np.float64) for name in outputs[0]}
    taken = losses.get("gradient_steps", np.ones(len(outputs)))
    if not taken.any():
        return {"gradient_steps": 0.0}
    weights = taken / max(taken.sum(), 1.0)
    means = {name: float(np.sum(weights * values)) for name, values in losses.items()}
    return means if "gradient_steps" not in losses else means | {"gradient_steps": float(taken.sum())}


def _means(episodes: dict[str, np.ndarray]) -> dict[str, float | None]:
    means = {name: float(np.mean(values)) for name, values in episodes.items()}
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}


def _per_episode(episodes: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """The lists that marl-eval's file keeps."""
    return {name: [float(value) for value in values] for name, values in episodes.items() if "_agent_" not in name}


def _cleared(episodes: Any) -> Any:
    """The running episodes alone, each sum on the device and in the layout that it had."""
    zero = {name: jax.device_put(np.zeros_like(getattr(episodes, name)), getattr(episodes, name).sharding)
            for name in ("finished_return", "finished_length", "finished")}  # fmt: skip
    return episodes._replace(**zero)
