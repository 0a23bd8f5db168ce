"""Independent Q-learning, feed-forward and recurrent, and QMIX.

Independent deep Q-learning: https://arxiv.org/abs/1511.08779; double Q-learning: https://arxiv.org/abs/1509.06461;
recurrent replay (stored hidden states, burn-in): R2D2, https://openreview.net/forum?id=r1lyTjAqYX; QMIX:
https://arxiv.org/abs/1803.11485. Parameters are shared between agents, as in Mava; agents are distinguished by their
ids.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jax_party.config.experiment import ExperimentConfig
from jax_party.config.systems import QLearningConfig, QMIXConfig, RecurrentQLearningConfig
from jax_party.envs.adapter import MultiAgentEnv, Observation
from jax_party.envs.wrappers import global_state
from jax_party.networks.mixing import QMixer
from jax_party.networks.q_networks import QNetwork
from jax_party.networks.recurrent import RecurrentNetwork
from jax_party.networks.torsos import make_torso
from jax_party.ops.gradients import clipped_adam
from jax_party.ops.q_learning import (
    bootstrap_value,
    chosen_value,
    epsilon_greedy,
    epsilon_schedule,
    greedy_action,
    td_error,
)
from jax_party.ops.sampling import flat_gumbel
from jax_party.systems.base import Hyper, where_ended
from jax_party.systems.off_policy import Learning, OffPolicySystem, Step


class Params(NamedTuple):
    """Parameters of the networks that learn and play, and of the slower copies that provide targets."""

    online: PyTree
    target: PyTree


class OptState(NamedTuple):
    """The optimiser's state, and the number of gradient steps taken, () int32."""

    adam: optax.OptState
    steps: Int[Array, ""]


class Noise(NamedTuple):
    """The randomness of ε-greedy actions, uniform in [0, 1): whether to explore, and which action to explore."""

    explore: Float[Array, "*b N"]
    choice: Float[Array, "*b N A"]


class QLearningSystem(OffPolicySystem):
    """A system that learns action values and acts ε-greedily on them.

    Evaluation is greedy whatever `arch.evaluation_greedy` says: a Q-learner's policy is the greedy one, and ε belongs
    to training.
    """

    system: QLearningConfig | RecurrentQLearningConfig | QMIXConfig

    @property
    def batch_size(self) -> int:
        """Sequences per gradient step, for each replica."""
        return self.system.sample_batch_size

    @property
    def steps_before_learning(self) -> int:
        """Environment steps, over all environments, before the first gradient step."""
        return self.system.min_buffer_size

    # -- What defines the algorithm ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def init_networks(self, key: PRNGKeyArray, observation: Observation) -> PyTree:
        """Return the online networks' parameters at the start. `observation`: an example, leading axis 1."""

    @abc.abstractmethod
    def q_values(
        self, networks: PyTree, memory: PyTree, observation: Observation
    ) -> tuple[PyTree, Float[Array, "b N A"]]:
        """Return the acting form's memory after this step, and values of all actions. `networks`: online parameters."""

    @abc.abstractmethod
    def errors(self, hyper: Hyper, params: Params, batch: Step) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Return TD errors on a batch of sequences, and the values of the actions taken, with the same shape."""

    # -- Acting --------------------------------------------------------------------------------------------------------

    def draw_noise(self, key: PRNGKeyArray, steps: int) -> Noise:
        """Draw the noise of a rollout, leading axes (steps, E)."""
        explore_key, choice_key = jax.random.split(key)
        shape = (steps, self.envs.num_envs, self.env.num_agents)
        explore = jax.random.uniform(explore_key, (steps * self.envs.num_envs * self.env.num_agents,))
        return Noise(explore.reshape(shape), flat_gumbel(choice_key, (*shape, self.env.num_actions)))

    def explore(
        self,
        hyper: Hyper,
        params: Params,
        memory: PyTree,
        observation: Observation,
        noise: Noise,
        env_steps: Float[Array, ""],
    ) -> tuple[PyTree, Int[Array, "E N"], dict[str, Array]]:
        """Act ε-greedily, with ε from the environment steps so far."""
        epsilon = epsilon_schedule(env_steps, hyper.system["eps_min"], hyper.system["eps_decay"])
        memory, q = self.q_values(params.online, memory, observation)
        return memory, epsilon_greedy(q, observation.action_mask, epsilon, *noise), {"q_values": q}

    def act(
        self, params: Params, memory: PyTree, observation: Observation, key: PRNGKeyArray, *, greedy: bool
    ) -> tuple[PyTree, Int[Array, "b N"], dict[str, Array]]:
        """Return the greedy actions, and the values of all actions."""
        memory, q = self.q_values(params.online, memory, observation)
        return memory, greedy_action(q, observation.action_mask), {"q_values": q}

    # -- Learning ------------------------------------------------------------------------------------------------------

    def init_learning(self, hyper: Hyper, key: PRNGKeyArray, observation: Observation) -> Learning:
        """Return networks and optimiser at the start; target networks are copies of the online ones."""
        online = self.init_networks(key, observation)
        state = OptState(self.optimiser(hyper).init(online), jnp.zeros((), jnp.int32))
        return Learning(Params(online, jax.tree.map(jnp.copy, online)), state)

    def learn_step(
        self, hyper: Hyper, learning: Learning, batch: Step, key: PRNGKeyArray
    ) -> tuple[Learning, dict[str, Float[Array, ""]]]:
        """Descend the mean of ½ δ², then move the target networks."""
        params, (adam, steps) = learning

        def loss(online: PyTree, chunk: Step) -> tuple[Float[Array, ""], dict[str, Array]]:
            share = chunk.done.shape[0] / batch.done.shape[0]
            error, value = self.errors(hyper, Params(online, params.target), chunk)
            means = {"q_loss": 0.5 * (error**2).mean(), "mean_q": value.mean(), "td_error": jnp.abs(error).mean()}
            return share * means["q_loss"], {name: share * mean for name, mean in means.items()}

        losses, gradient = self.gradient(loss, params.online, batch)
        updates, adam = self.optimiser(hyper).update(gradient, adam, params.online)
        online, steps = optax.apply_updates(params.online, updates), steps + 1
        return Learning(Params(online, self.target(hyper, online, params.target, steps)), OptState(adam, steps)), losses

    def optimiser(self, hyper: Hyper) -> optax.GradientTransformation:
        """Return Adam with the gradient norm clipped."""
        numbers = hyper.system
        return clipped_adam(numbers["q_lr"], numbers["max_grad_norm"], eps=1e-8)

    def target(self, hyper: Hyper, online: PyTree, target: PyTree, steps: Int[Array, ""]) -> PyTree:
        """Return the target networks after `steps` steps: copied every `update_period`, or moved by `tau` each."""
        if self.system.hard_update:
            return optax.periodic_update(online, target, steps, self.system.update_period)
        return optax.incremental_update(online, target, hyper.system["tau"])


class IQL(QLearningSystem):
    """Feed-forward independent Q-learning."""

    cpu_chunk_size: ClassVar[int | None] = None
    system: QLearningConfig

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        super().__init__(config, env, chunk_size, mesh)
        networks: Any = config.network
        self.network = QNetwork(make_torso(networks.q_network.pre_torso), env.num_actions)

    def init_networks(self, key: PRNGKeyArray, observation: Observation) -> PyTree:
        """Return the parameters of the one network."""
        return self.network.init(key, self.features(observation))

    def initial_memory(self, batch_size: int) -> PyTree:
        """Return (): nothing is remembered."""
        return ()

    def q_values(
        self, networks: PyTree, memory: PyTree, observation: Observation
    ) -> tuple[PyTree, Float[Array, "*b N A"]]:
        """Return values of all actions, from the observation alone."""
        q: Any = self.network.apply(networks, self.features(observation))
        return memory, q

    def training_form(self, params: Params, batch: Step) -> dict[str, Float[Array, "B L N A"]]:
        """Return what acting records: `q_values`."""
        return {"q_values": self.q_values(params.online, (), batch.observation)[1]}

    def errors(self, hyper: Hyper, params: Params, batch: Step) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
        """Return TD errors on a batch of steps, and the values of the actions taken."""
        step: Step = jax.tree.map(lambda leaf: leaf[:, 0], batch)
        _, q_tm1 = self.q_values(params.online, (), step.observation)
        _, q_t = self.q_values(params.target, (), step.next_observation)
        _, selector = self.q_values(params.online, (), step.next_observation) if self.system.double_q else ((), q_t)
        value = chosen_value(q_tm1, step.action)
        v_t = bootstrap_value(q_t, selector, step.next_observation.action_mask)
        return td_error(value, step.reward, hyper.system["gamma"] * step.discount, v_t), value


class RecurrentIQL(QLearningSystem):
    """Recurrent independent Q-learning on sequences that start from stored hidden states."""

    cpu_chunk_size: ClassVar[int | None] = None
    system: RecurrentQLearningConfig | QMIXConfig

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        super().__init__(config, env, chunk_size, mesh)
        networks: Any = config.network
        self.hidden_size: int = networks.hidden_state_dim
        self.network = RecurrentNetwork(
            make_torso(networks.q_network.pre_torso),
            self.hidden_size,
            QNetwork(make_torso(networks.q_network.post_torso), env.num_actions),
        )

    @property
    def sequence_length(self) -> int:
        """Successive steps of one environment in a sampled sequence."""
        return self.system.sample_sequence_length

    def init_networks(self, key: PRNGKeyArray, observation: Observation) -> PyTree:
        """Return the parameters of the one network."""
        return self.network.init(key, self.initial_memory(1), self.features(observation))

    def agent(self, networks: PyTree) -> PyTree:
        """Return the parameters of the agents' own network."""
        return networks

    def initial_memory(self, batch_size: int) -> Float[Array, "b N H"]:
        """Return the hidden states at the beginning of an episode: zeros."""
        return jnp.zeros((batch_size, self.env.num_agents, self.hidden_size))

    def q_values(
        self, networks: PyTree, memory: Float[Array, "*b N H"], observation: Observation
    ) -> tuple[Float[Array, "*b N H"], Float[Array, "*b N A"]]:
        """Return hidden states after this step, and values of all actions."""
        after_and_q: Any = self.network.apply(self.agent(networks), memory, self.features(observation))
        return after_and_q

    def training_form(self, params: Params, batch: Step) -> dict[str, Float[Array, "B L N A"]]:
        """Return what acting records, on sequences from the memory before their first steps: `q_values`."""
        steps = _swap_axes(batch)
        _, q = self._apply(params.online, steps.memory[0], steps.observation, steps.last_done)
        return {"q_values": jnp.swapaxes(q, 0, 1)}

    def errors(
        self, hyper: Hyper, params: Params, batch: Step
    ) -> tuple[Float[Array, "L-K B N"], Float[Array, "L-K B N"]]:
        """Return TD errors on the steps after burn-in, and the values of the actions taken."""
        steps, value, v_t = self.values(params, batch)
        return td_error(value, steps.reward, hyper.system["gamma"] * steps.discount, v_t), value

    def values(self, params: Params, batch: Step) -> tuple[Step, Float[Array, "L-K B N"], Float[Array, "L-K B N"]]:
        """Process sequences of L steps, the first K of them (burn-in) only to obtain hidden states.

        Returns:
          The steps after burn-in, time first; values of the actions taken; values of what followed each step.
        """
        time_first = _swap_axes(batch)
        length = self.system.burn_in_length
        burn_in: Step = jax.tree.map(lambda leaf: leaf[:length], time_first)
        steps: Step = jax.tree.map(lambda leaf: leaf[length:], time_first)
        memory = time_first.memory[0]
        q_tm1, q_next = self._unroll(params.online, self._burn_in(params.online, memory, burn_in), steps)
        q_t = self._unroll(params.target, memory, time_first)[1][length:]
        selector = q_next if self.system.double_q else q_t
        v_t = bootstrap_value(q_t, selector, steps.next_observation.action_mask)
        return steps, chosen_value(q_tm1, steps.action), v_t

    def _burn_in(self, networks: PyTree, memory: Float[Array, "B N H"], steps: Step) -> Float[Array, "B N H"]:
        """Return the hidden states after the burn-in steps, without gradient."""
        if self.system.burn_in_length == 0:
            return memory
        hiddens, _ = self._apply(jax.lax.stop_gradient(networks), memory, steps.observation, steps.last_done)
        return hiddens[-1]

    def _unroll(
        self, networks: PyTree, memory: Float[Array, "B N H"], steps: Step
    ) -> tuple[Float[Array, "T B N A"], Float[Array, "T B N A"]]:
        """Return values at each step, and values of what followed it (no gradient).

        Where the episode continues, the latter are the next step's values. What followed the last step is appended to
        the sequence. Where an episode was truncated inside the sequence, one more step is made from the hidden states
        there; where an episode terminated, these values have discount 0.
        """
        last = jax.tree.map(lambda leaf: leaf[-1:], steps)
        observation = jax.tree.map(
            lambda seen, following: jnp.concatenate([seen, following]), steps.observation, last.next_observation
        )
        begins = jnp.concatenate([steps.last_done, jnp.zeros_like(last.last_done)])
        hiddens, q = self._apply(networks, memory, observation, begins)
        frozen, hiddens = jax.lax.stop_gradient((networks, hiddens))
        cut = (steps.done & (steps.discount > 0.0).any(-1)).at[-1].set(False)
        after_cut = where_ended(cut, lambda: self.q_values(frozen, hiddens[:-1], steps.next_observation)[1])
        return q[:-1], jax.lax.stop_gradient(jnp.where(cut[..., None, None], after_cut, q[1:]))

    def _apply(self, networks: PyTree, memory: Array, observation: Observation, begins: Array) -> Any:
        return self.network.apply(
            self.agent(networks), memory, self.features(observation), begins, method=RecurrentNetwork.unroll
        )


class QMIXNetworks(NamedTuple):
    """Parameters of the agents' network and of the mixing network."""

    agent: PyTree
    mixer: PyTree


class QMIX(RecurrentIQL):
    """Recurrent agents whose values are mixed into the team's value, which is trained on the team's reward."""

    system: QMIXConfig

    def __init__(
        self, config: ExperimentConfig, env: MultiAgentEnv, chunk_size: int | None = None, mesh: Mesh | None = None
    ) -> None:
        super().__init__(config, env, chunk_size, mesh)
        networks: Any = config.network
        self.mixer = QMixer(networks.mixer_network.embed_dim, networks.mixer_network.hyper_hidden_dim)

    def init_networks(self, key: PRNGKeyArray, observation: Observation) -> QMIXNetworks:
        """Return the parameters of the agents' network and of the mixing network."""
        agent_key, mixer_key = jax.random.split(key)
        values = jnp.zeros((1, self.env.num_agents))
        mixer = self.mixer.init(mixer_key, values, _state(observation))
        return QMIXNetworks(super().init_networks(agent_key, observation), mixer)

    def agent(self, networks: QMIXNetworks) -> PyTree:
        """Return the parameters of the agents' own network."""
        return networks.agent

    def errors(self, hyper: Hyper, params: Params, batch: Step) -> tuple[Float[Array, "L-K B"], Float[Array, "L-K B"]]:
        """Return TD errors of the team's value on the steps after burn-in; https://arxiv.org/abs/1803.11485 eq. 6."""
        steps, values, v_t = self.values(params, batch)
        value = self.mix(params.online, values, steps.observation)
        team_v_t = self.mix(params.target, v_t, steps.next_observation)
        reward, discount = steps.reward.mean(-1), steps.discount.mean(-1)
        return td_error(value, reward, hyper.system["gamma"] * discount, team_v_t), value

    def mix(self, networks: QMIXNetworks, values: Float[Array, "*b N"], observation: Observation) -> Float[Array, "*b"]:
        """Return the team's value, given the agents' values."""
        mixed: Any = self.mixer.apply(networks.mixer, values, _state(observation))
        return mixed


def _swap_axes(batch: Step) -> Step:
    """Transpose (B, L, ...) to (L, B, ...): recurrent cores scan the leading axis."""
    time_first: Step = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batch)
    return time_first


def _state(observation: Observation) -> Float[Array, "*b S"]:
    """Return the global state, once per environment."""
    return global_state(observation.agents_view)[..., 0, :]


__all__ = ["IQL", "QMIX", "Noise", "OptState", "Params", "QLearningSystem", "QMIXNetworks", "RecurrentIQL"]
