"""One of Mava's experiments, one evaluation period at a time.

Mava's `run_experiment` is one call that returns when training is over. Here it runs in its own thread, and the
system's module asks this session for what it would otherwise make itself: environments, the learner's state, the
evaluator, the logger. So each period is handed over once it has been evaluated, and the thread waits until the next
one is requested. No file of Mava is changed; names in a module are replaced by functions that call the originals.

A session that resumes from a checkpoint lets Mava's loop skip the periods that have been played: learner and evaluator
return what they returned then, so that Mava's random keys are drawn as they were.

The evaluator plays the parameters that a period ended with. Mava's PPO, Sable and MAT would pass it those that the
period began with, its Q-learning those that the period ended with. The untrained networks are evaluated together with
the first period.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from omegaconf import OmegaConf

from jax_party.engines.mava import entering, installation
from jax_party.engines.mava.compiling import compile_seconds
from jax_party.engines.mava.recording import in_time, make_recorder
from jax_party.errors import ConfigError

logger = logging.getLogger(__name__)

_MARK: Final = "_jax_party_hooks"
_FINAL_STREAM: Final = 2**31 - 1
"""Folded into the keys of Mava's absolute metric, so that the final parameters are played with their own keys."""
_UNTRAINED_STREAM: Final = 2**31 - 2
"""Folded into the keys of Mava's first evaluation, so that untrained networks are played with their own keys."""
_playing = threading.local()


Episodes = dict[str, np.ndarray]


@dataclass(frozen=True)
class Progress:
    """The state of a session that a checkpoint keeps.

    Attributes:
      state: that of Mava's learner, None before there is one.
      returns: the mean return of each evaluation so far.
    """

    state: Any
    returns: tuple[float, ...] = ()

    @property
    def evaluations(self) -> int:
        """The number of evaluation periods played."""
        return len(self.returns)


@dataclass
class Period:
    """The results of an evaluation period.

    Attributes:
      train: Mava's training metrics, means over the period's updates and over the episodes that ended during training.
      rollout: field -> (E, T, …), if training rollouts are recorded.
      episodes: metric -> (K,), one value per evaluated episode, for the parameters that the period ended with.
      untrained: the same for the untrained parameters; only with the first period, otherwise None.
      trajectory: field -> (K, T, …) of `episodes`, if they are recorded.
      train_s, evaluation_s: seconds, without compiling.
    """

    train: dict[str, float] = field(default_factory=dict)
    rollout: dict[str, Any] | None = None
    episodes: Episodes = field(default_factory=dict)
    untrained: Episodes | None = None
    trajectory: dict[str, Any] | None = None
    train_s: float = 0.0
    evaluation_s: float = 0.0


@dataclass(frozen=True)
class Closing:
    """The closing episodes, as many as the absolute metric needs: metric -> (K,), one value per episode.

    Attributes:
      final: those of the final parameters.
      best: those of the best evaluation's parameters; the same episodes if the parameters are the same.
    """

    final: Episodes
    best: Episodes


class _Closed(BaseException):
    """A signal that ends Mava's thread; a BaseException, so that no `except Exception` catches it."""


@dataclass(frozen=True)
class _Ready:
    """The learner's first state."""

    state: Any


@dataclass(frozen=True)
class _Ended:
    """The end of Mava's call: its error, or None."""

    error: BaseException | None


class Session:
    """One seed of a trial.

    Args:
      algorithm: the system.
      config: the config that Mava's experiment is run with.
      record_train, record_test: whether rollouts, or evaluated episodes, are recorded.

    Attributes:
      progress: the present state of the session.
    """

    def __init__(self, algorithm: str, config: Mapping[str, Any], record_train: bool, record_test: bool) -> None:
        self.progress = Progress(None)
        self._module = _hooked(algorithm)
        self._config = _config_for(config)
        self._record_train, self._record_test = record_train, record_test
        self._passing = 0
        self._period = Period()
        self._untrained_params: Any = None
        self._best_params: Any = None
        self._closing: Closing | None = None
        self._given: queue.Queue[Any] = queue.Queue()
        self._asked = threading.Semaphore(0)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"mava-{algorithm}", daemon=True)

    # -- For the caller ------------------------------------------------------------------------------------------------

    def open(self) -> Any:
        """Start Mava's experiment; return the learner's first state, on the device."""
        self._thread.start()
        ready = self._take(_Ready)
        self.progress = Progress(ready.state)
        return ready.state

    def go_on_from(self, progress: Progress) -> None:
        """Continue from an earlier session's progress rather than from the first state. Call it before `play`."""
        self.progress = progress
        self._passing = progress.evaluations

    def play(self) -> Period:
        """Train and evaluate the next period."""
        self._asked.release()
        period = self._take(Period)
        assert isinstance(period, Period)
        return period

    @property
    def params(self) -> Any:
        """A copy of the parameters that Mava's evaluator plays, from the learner's present state."""
        return jax.tree.map(jnp.copy, evaluated_params(self.progress.state))

    def finish(self, best_params: Any = None) -> Closing | None:
        """Let Mava finish, which measures the absolute metric; return None if it is not configured to.

        Args:
          best_params: those of the best evaluation; None if they are the final ones.
        """
        self._best_params = best_params
        self._asked.release()
        given = self._take(Closing, _Ended)
        return given if isinstance(given, Closing) else None

    def close(self) -> None:
        """End the thread after its present computation; calling it again does nothing."""
        self._closed = True
        self._asked.release()
        if self._thread.ident is not None:
            self._thread.join()

    def _take(self, *kinds: type) -> Any:
        given = self._given.get()
        if isinstance(given, _Ended) and given.error is not None:
            raise given.error
        assert isinstance(given, kinds), f"Mava gave {type(given).__name__}, not {kinds}"
        return given

    # -- In Mava's thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        _playing.session = self
        error: BaseException | None = None
        try:
            self._module.run_experiment(self._config)
        except _Closed:
            pass
        except BaseException as problem:
            error = problem
        self._given.put(_Ended(error))

    def _hand_over(self, given: Any) -> None:
        """Hand an object to the caller, and wait for the next request."""
        self._given.put(given)
        self._asked.acquire()
        if self._closed:
            raise _Closed

    def make_environments(self, make: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Return Mava's environments, wrapped for measuring and recording."""
        train, evaluated = make(*args, **kwargs)
        return entering.Recorded(train) if self._record_train else train, entering.Measured(evaluated)

    def begin(self, state: Any) -> Any:
        """Return the state that Mava's loop begins with: its own first one, or that of the checkpoint."""
        self._hand_over(_Ready(state))
        return self.progress.state

    def learn(self, learn: Callable[[Any], Any], state: Any) -> Any:
        """Train a period, unless it has been played already."""
        output_of = _output_of(self._module)
        if self._passing:
            return output_of(self.progress.state, {"is_terminal_step": np.zeros((1,), bool)}, {})
        if not self.progress.evaluations:
            self._untrained_params = self.params  # Q-learning donates the state's memory
        start = time.perf_counter()
        output = jax.block_until_ready(learn(state))
        end = time.perf_counter()
        next_state, metrics, losses = _parts_of(output)
        fields = metrics.pop(entering.FIELDS, None)
        self._period = Period(train_s=end - start - compile_seconds(start, end))
        if fields is not None:
            self._period.rollout = in_time(fields, is_q_learning=not hasattr(output, "learner_state"))
        self.progress = Progress(next_state, self.progress.returns)
        return output_of(next_state, metrics, losses)

    def make_evaluator(
        self, make: Callable[..., Any], env: Any, act_fn: Any, config: Any, absolute_metric: bool
    ) -> Callable[..., Any]:
        """Return a function in place of Mava's evaluator that also records the episodes that it plays."""
        evaluator = make(env, act_fn, config, absolute_metric=absolute_metric)
        if absolute_metric:
            return functools.partial(self._evaluate_last, evaluator)
        recorder = make_recorder(env, act_fn, config) if self._record_test else None
        return functools.partial(self._evaluate, evaluator, recorder)

    def _evaluate(self, evaluator: Any, recorder: Any, params: Any, key: Any, memory: Any) -> Any:
        """Evaluate the parameters that the period ended with, and in the first period also the untrained ones.

        For a period that was played before, return its recorded result.
        """
        if self._passing:
            told = jnp.float32(self.progress.returns[self.progress.evaluations - self._passing])
            return {"episode_return": told, self._config.env.eval_metric: told}
        trained = self._of_the_same_form(params)
        if not self.progress.evaluations:
            _, self._period.untrained, _ = _measure(
                evaluator, self._untrained_params, _fold_in(key, _UNTRAINED_STREAM), memory
            )
            self._untrained_params = None
        metrics, self._period.episodes, self._period.evaluation_s = _measure(evaluator, trained, key, memory)
        if recorder is not None:
            self._period.trajectory = recorder(trained, key, memory)
        mean = float(jnp.mean(metrics["episode_return"]))
        self.progress = Progress(self.progress.state, (*self.progress.returns, mean))
        return metrics

    def _evaluate_last(self, evaluator: Any, params: Any, key: Any, memory: Any) -> Any:
        """Measure the absolute metric of the final parameters and of the trial's best ones.

        `params`, which Mava would measure, are the best by Mava's own rule and are not used.
        """
        metrics, final, _ = _measure(evaluator, self.params, _fold_in(key, _FINAL_STREAM), memory)
        best = final
        if self._best_params is not None:
            metrics, best, _ = _measure(evaluator, self._best_params, key, memory)
        self._closing = Closing(final, best)
        return metrics

    def _of_the_same_form(self, params: Any) -> Any:
        """Return the parameters that the learner's state holds now.

        Args:
          params: those that Mava would evaluate, which have the same form.

        Raises:
          ConfigError: this version of Mava keeps them elsewhere in its state.
        """
        trained = self.params
        forms = [jax.tree.map(jnp.shape, tree) for tree in (trained, params)]
        if forms[0] != forms[1]:
            raise ConfigError(
                f"ENGINE=mava: {self._module.__name__}: the parameters that it evaluates are not where its learner's "
                f"state has them in the Mava that was tried; {installation.REMEDY}"
            )
        return trained

    def log(self, metrics: dict[str, Any], t: int, t_eval: int, event: Any) -> None:
        """Receive what Mava logs: an evaluation ends a period, the absolute metric ends training."""
        if self._passing:
            self._passing -= event.value == "evaluator"
            return
        if event.value == "trainer":
            self._period.train |= {name: float(np.mean(values)) for name, values in metrics.items()}
        if event.value == "actor":
            means = {name: float(np.mean(values)) for name, values in metrics.items()}
            self._period.train |= {name: means[name] for name in ("episode_return", "episode_length") if name in means}
        if event.value == "evaluator":
            self._hand_over(self._period)
        if event.value == "absolute":
            self._hand_over(self._closing)

    def make_checkpointer(self, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return Mava's own checkpointer, which does nothing for skipped periods: it has saved them already."""
        own = make(*args, **kwargs)
        return SimpleNamespace(save=lambda **saved: not self._passing and own.save(**saved))

    def stop(self) -> None:
        """Do nothing; Mava calls this to stop its logger."""


def evaluated_params(state: Any) -> Any:
    """Return the parameters that Mava's evaluator plays: the acting networks', of one replica."""
    params = state.params
    for name in ("actor_params", "online"):
        params = getattr(params, name, params)
    return jax.tree.map(lambda leaf: leaf[:, 0], params)


def _fold_in(keys: Any, stream: int) -> Any:
    """Return the keys of a separate stream, one per device."""
    return jax.vmap(lambda key: jax.random.fold_in(key, stream))(keys)


def _measure(evaluator: Any, params: Any, key: Any, memory: Any) -> tuple[dict[str, Any], Episodes, float]:
    """Return the result of Mava's evaluator; its episodes, metric by metric; and its seconds, without compiling."""
    start = time.perf_counter()
    metrics = evaluator(params, key, memory)
    end = time.perf_counter()
    of_episodes = {name: values for name, values in metrics.items() if jnp.ndim(values)}
    episodes = {name: np.asarray(values).reshape(-1) for name, values in of_episodes.items()}
    return metrics, episodes, end - start - compile_seconds(start, end)


def _config_for(mapping: Mapping[str, Any]) -> Any:
    """Return Mava's config, with the game's id for Mava and the way its rewards are shared."""
    config = OmegaConf.create(dict(mapping))
    env = config.env
    env.scenario.name = entering.ENTERED_ID
    shared = {"team_reward": not env.use_individual_rewards, "shared_reward": env.shared_reward}
    env.scenario.env_kwargs = {**env.scenario.env_kwargs, **shared}
    OmegaConf.set_struct(config, False)
    return config


def _parts_of(output: Any) -> tuple[Any, dict[str, Any], Any]:
    """Return the learner's state, the episode metrics and the losses of a period."""
    if hasattr(output, "learner_state"):
        return output.learner_state, dict(output.episode_metrics), output.train_metrics
    state, (metrics, losses) = output
    return state, dict(metrics), losses


def _output_of(module: ModuleType) -> Callable[[Any, dict[str, Any], Any], Any]:
    """Return a function that builds the output of a system's learner from its parts."""
    if hasattr(module, "learner_setup"):
        from mava.types import ExperimentOutput

        return lambda state, metrics, losses: ExperimentOutput(state, metrics, losses)
    return lambda state, metrics, losses: (state, (metrics, losses))


# -- Names in a system's module ----------------------------------------------------------------------------------------


def _hooked(algorithm: str) -> ModuleType:
    """Return a system's module; once per process, its names are replaced by functions that ask the thread's session."""
    module = installation.import_system(algorithm)
    if hasattr(module, _MARK):
        return module
    from mava.utils import make_env
    from mava.wrappers.jumanji import JumanjiMarlWrapper

    entering.enter(make_env, JumanjiMarlWrapper)
    names: dict[str, Any] = {
        "environments": SimpleNamespace(make=_asking(Session.make_environments, module.environments.make)),
        "get_eval_fn": _asking(Session.make_evaluator, module.get_eval_fn),
        "Checkpointer": _asking(Session.make_checkpointer, module.Checkpointer),
        "MavaLogger": lambda config: _session(),
        "pprint": lambda config: logger.debug("%s", config),
    }
    if hasattr(module, "learner_setup"):
        names["learner_setup"] = functools.partial(_set_up, module.learner_setup)
    else:
        names["init"] = functools.partial(_init, module.init)
        names["make_update_fns"] = functools.partial(_make_update, module.make_update_fns)
    for name, value in names.items():
        setattr(module, name, value)
    setattr(module, _MARK, True)
    return module


def _session() -> Session:
    session: Session = _playing.session
    return session


def _asking(method: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: method(_session(), original, *args, **kwargs)


def _set_up(learner_setup: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
    """Replace `learner_setup` of Mava's on-policy systems: return the learner, the network, the first state."""
    session = _session()
    learn, network, state = learner_setup(*args, **kwargs)
    return functools.partial(session.learn, learn), network, session.begin(state)


def _init(init: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Replace `init` of Mava's Q-learning: the first state is the one part that has a replay buffer."""
    session = _session()
    parts = init(*args, **kwargs)
    return tuple(session.begin(part) if hasattr(part, "buffer_state") else part for part in parts)


def _make_update(make_update_fns: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """Replace `make_update_fns` of Mava's Q-learning, which returns only the learner."""
    return functools.partial(_session().learn, make_update_fns(*args, **kwargs))
