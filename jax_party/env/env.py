"""The JaxParty environment."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jumanji import specs
from jumanji.env import Environment
from jumanji.types import StepType, TimeStep, restart
from jumanji.viewer import Viewer

from jax_party.env.generator import Generator, action_mask, draw_words
from jax_party.env.matching import make_matching
from jax_party.env.metrics import EpisodeMetrics, no_step_metrics, step_metrics
from jax_party.env.observer import Observer, reward_range
from jax_party.env.payoffs import Outcome, execute, play, remember
from jax_party.env.ranking import places, rank_rewards
from jax_party.env.settings import GameSettings, PayoffSettings, parse_settings
from jax_party.env.types import NUM_ACTIONS, GameParams, Observation, State

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from numpy.typing import NDArray

# A test compares this with `mava_configs/env/scenario/p-base.yaml`.
PRISONERS_DILEMMA: Mapping[str, float] = {"reward": 3.0, "sucker": 0.0, "temptation": 5.0, "punishment": 1.0}


class JaxParty(Environment[State, specs.MultiDiscreteArray, Observation]):
    """An iterated social dilemma with an observable ranking.

    Agents meet in pairs, play a 2x2 game, and are also paid, or fined, for their place in a running ranking:
    helping the other raises welfare, a better place pays more. Whether ranks can change depends on the settings:
    see `jax_party.env.rank_mobility`.

    - `observation`: `Observation`
        - `agents_view`: (N, F) float32, each row from that agent's own view (see `Observer`).
        - `action_mask`: (N, 3) bool, an active agent may play 0 or 1, an idle one only 2.
        - `step_count`: (N,) int32.
    - `action`: (N,) int32 of COOPERATE = 0, DEFECT = 1, NOOP = 2. An idle agent's action is ignored; an active
      agent's NOOP (or any number but 0 and 1) forfeits: its meetings pay 0 to both.
    - `reward`: (N,) float32, payoff (under `all_pairs` the mean over opponents) + rank reward by the ranks seen.
    - `discount`: (N,) float32, 0 at the end under `horizon: terminate`, else 1.
    - `state`: `State`.
    - `extras["metrics"]`: see `jax_party.env.metrics.step_metrics`.
    - An episode ends after `time_limit` steps.

    ```python
    env = JaxParty(num_agents=5, matching="random_matching", payoff={"temptation": 4.0})
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    state, timestep = jax.jit(env.step)(state, env.action_spec.generate_value())
    ```

    Attributes:
      settings: the checked settings.
      num_agents: N.
      time_limit: steps per episode.
      episode_metrics: how the step metrics become episode metrics (`zero`, `add`, `summarise`).
    """

    episode_metrics = EpisodeMetrics

    def __init__(
        self,
        num_agents: int = 3,
        time_limit: int = 4000,
        payoff: PayoffSettings | Mapping[str, float] = PRISONERS_DILEMMA,
        rank_reward: float = 10.0,
        rank_by: str = "total",
        matching: str = "random_pair",
        observe: Sequence[str] = ("active", "totals", "ranks"),
        totals_scale: str = "per_step",
        horizon: str = "terminate",
        action_noise: float = 0.0,
        viewer: Viewer[State] | None = None,
    ) -> None:
        """Build the game; the parameters are those of `GameSettings`.

        Args:
          payoff: a mapping may leave out entries, which keep their defaults.
          viewer: draws the game; by default a `JaxPartyViewer`, made when first needed.

        Raises:
          ValueError: a parameter is out of range; the message names it, its value and what is allowed.
        """
        self.settings: GameSettings = parse_settings(
            {
                "num_agents": num_agents,
                "time_limit": time_limit,
                "payoff": {**PRISONERS_DILEMMA, **payoff} if isinstance(payoff, Mapping) else payoff,
                "rank_reward": rank_reward,
                "rank_by": rank_by,
                "matching": matching,
                "observe": observe,
                "totals_scale": totals_scale,
                "horizon": horizon,
                "action_noise": action_noise,
            }
        )
        self.num_agents = self.settings.num_agents
        self.time_limit = self.settings.time_limit
        self._params = _params_of(self.settings)
        self._reward_range = reward_range(self._params)
        self._matching = make_matching(self.settings.matching, self.num_agents)
        self._generator = Generator(self._matching)
        self._observer = Observer(self.settings)
        self._viewer = viewer
        super().__init__()

    def __repr__(self) -> str:
        return f"JaxParty({self.settings!r})"

    @property
    def params(self) -> GameParams:
        """The traced numbers of the game, float32 scalars: an argument for a compiled program."""
        return GameParams(*(jnp.asarray(value, jnp.float32) for value in self._params))

    def with_params(self, params: GameParams) -> JaxParty:
        """Return this game with other numbers, which may be JAX tracers: a sweep over them does not recompile.

        The copy shares everything else. Its specs leave rewards and totals unbounded, since the numbers may not be
        known yet. The numbers are not checked here: check them as Python numbers (`GameSettings`).
        """
        game = copy.copy(self)
        game._params = GameParams(*(jnp.asarray(value, jnp.float32) for value in params))
        game._reward_range = (-np.inf, np.inf)
        for name in ("observation_spec", "reward_spec"):
            game.__dict__.pop(name, None)
        return game

    def reset(self, key: chex.PRNGKey) -> tuple[State, TimeStep[Observation]]:
        """Begin an episode.

        Args:
          key: legacy uint32 or typed PRNG key.

        Returns:
          The first state and timestep; the metrics are all zero.
        """
        state = self._generator(key)
        timestep = restart(
            observation=self._observer(state),
            extras={"metrics": no_step_metrics(self.num_agents)},
            shape=(self.num_agents,),
            dtype=jnp.float32,
        )
        return state, timestep

    def step(self, state: State, action: chex.Array) -> tuple[State, TimeStep[Observation]]:
        """Play one step.

        Args:
          state: the present state of the game; not changed.
          action: (N,) integers.

        Returns:
          The next state, and the timestep with the agents' rewards and observations.
        """
        next_key, words = draw_words(state.key, self._matching)
        played = execute(action, state.active, words.noise, self._params.action_noise)
        outcome = play(played, state.meeting, self._params)
        reward = outcome.payoff + rank_rewards(state.ranks, self._params.rank_reward)

        totals = state.totals + reward
        payoff_totals = state.payoff_totals + outcome.payoff
        scores = totals if self.settings.rank_by == "total" else payoff_totals
        step_count = state.step_count + 1
        meeting = self._matching(words.matching, step_count)
        active = jnp.any(meeting, axis=1)
        next_state = State(
            key=next_key,
            step_count=step_count,
            active=active,
            meeting=meeting,
            totals=totals,
            payoff_totals=payoff_totals,
            ranks=places(scores, words.ties),
            last_meeting=remember(state.last_meeting, played, outcome.traded),
            action_mask=action_mask(active),
        )
        return next_state, self._timestep(state, next_state, outcome, reward)

    def _timestep(self, state: State, next_state: State, outcome: Outcome, reward: chex.Array) -> TimeStep[Observation]:
        over = next_state.step_count >= self.time_limit
        ends = over if self.settings.horizon == "terminate" else jnp.zeros_like(over)
        return TimeStep(
            step_type=jnp.where(over, StepType.LAST, StepType.MID),  # type: ignore[arg-type]
            reward=reward,
            discount=jnp.broadcast_to(1.0 - ends.astype(jnp.float32), (self.num_agents,)),
            observation=self._observer(next_state),
            extras={"metrics": step_metrics(outcome, reward, state.ranks, next_state.ranks)},
        )

    @cached_property
    def observation_spec(self) -> specs.Spec[Observation]:
        """Shapes, dtypes and bounds of `Observation`, for episodes of up to `time_limit` steps."""
        with jax.ensure_compile_time_eval():
            return self._observer.spec(*self._reward_range)

    @cached_property
    def action_spec(self) -> specs.MultiDiscreteArray:
        """(N,) int32 of 0, 1, 2."""
        with jax.ensure_compile_time_eval():
            return specs.MultiDiscreteArray(jnp.full((self.num_agents,), NUM_ACTIONS, jnp.int32), jnp.int32, "action")

    @cached_property
    def reward_spec(self) -> specs.BoundedArray:
        """(N,) float32, within the range that one step can pay."""
        with jax.ensure_compile_time_eval():
            return specs.BoundedArray((self.num_agents,), jnp.float32, *self._reward_range, "reward")

    @cached_property
    def discount_spec(self) -> specs.BoundedArray:
        """(N,) float32, 0 or 1."""
        with jax.ensure_compile_time_eval():
            return specs.BoundedArray((self.num_agents,), jnp.float32, 0.0, 1.0, "discount")

    def render(self, state: State) -> NDArray[Any] | None:
        """Draw a state: shown if there is a screen, otherwise returned as (height, width, 4) uint8."""
        image: NDArray[Any] | None = self._get_viewer().render(state)
        return image

    def animate(self, states: Sequence[State], interval: int = 200, save_path: str | None = None) -> FuncAnimation:
        """Draw consecutive states as an animation.

        Args:
          states: states of one episode, in order.
          interval: milliseconds per frame.
          save_path: where to save it (`.gif` needs pillow, `.mp4` ffmpeg); not saved by default.
        """
        return self._get_viewer().animate(states, interval, save_path)

    def close(self) -> None:
        """Close the viewer's window, if there is one."""
        if self._viewer is not None:
            self._viewer.close()

    def _get_viewer(self) -> Viewer[State]:
        if self._viewer is None:
            from jax_party.env.viewer import JaxPartyViewer

            self._viewer = JaxPartyViewer(time_limit=self.time_limit)
        return self._viewer


def _params_of(settings: GameSettings) -> GameParams:
    payoff = settings.payoff
    numbers = (payoff.reward, payoff.sucker, payoff.temptation, payoff.punishment)
    return GameParams(*(np.float32(value) for value in (*numbers, settings.rank_reward, settings.action_noise)))
