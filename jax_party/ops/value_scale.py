"""Values in the units of a network, mean 0 and standard deviation 1, and in those of the reward: PopArt.

A critic that regresses returns of about 1,000 needs very many gradient steps to get there, and clips or weighs its loss
in units that no default can know. So it regresses (G − μ) / σ with running statistics μ, σ of the targets G. When these
change, the last layer is rescaled so that what the network says in units of the reward stays as it was.

Source: van Hasselt et al. 2016, "Learning values across many orders of magnitude", https://arxiv.org/abs/1602.07714;
Hessel et al. 2018, https://arxiv.org/abs/1809.04474, eq. 3 to 7; for MAPPO Yu et al. 2021, https://arxiv.org/abs/2103.01955,
section 5.1.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

LEAST_RATE: Final = 0.01
"""How much the newest targets count at least; before so many updates all targets count alike."""
LEAST_STD: Final = 1e-4
"""Of what σ is at least, once there are statistics: returns that are all alike have none."""
VALUE_LAYER: Final = "value_layer"
"""The name of a critic's last layer, which is rescaled."""


class ValueScale(NamedTuple):
    """Running statistics of value targets.

    Attributes:
      mean: () float32, μ.
      variance: () float32, σ².
      updates: () float32, how many batches of targets they are of.
    """

    mean: Float[Array, ""]
    variance: Float[Array, ""]
    updates: Float[Array, ""]

    @property
    def std(self) -> Float[Array, ""]:
        """σ; 0 before the first targets, so that all values are 0 whatever the network says."""
        return jnp.where(self.updates > 0, jnp.maximum(jnp.sqrt(self.variance), LEAST_STD), 0.0)


def no_statistics() -> ValueScale:
    """Return the statistics before the first targets."""
    return ValueScale(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))


def from_network(scale: ValueScale | None, value: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Return values in units of the reward, σ v + μ; None: they are."""
    return value if scale is None else scale.std * value + scale.mean


def for_network(scale: ValueScale | None, value: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Return values in the network's units, (v − μ) / σ; None: those of the reward. There have to be statistics."""
    return value if scale is None else (value - scale.mean) / scale.std


def with_targets(scale: ValueScale, target: Float[Array, "*b"]) -> ValueScale:
    """Return the statistics with a batch of targets more.

    The mean of the first hundred batches, then an exponential one: with the rate r = max(1 / n, 0.01) and the batch's
    mean m and variance s², μ' = μ + r (m − μ) and σ'² = (1 − r) σ² + r s² + r (1 − r) (m − μ)².
    """
    updates = scale.updates + 1
    rate = jnp.maximum(1.0 / updates, LEAST_RATE)
    gap = target.mean() - scale.mean
    variance = (1.0 - rate) * scale.variance + rate * target.var() + rate * (1.0 - rate) * gap**2
    return ValueScale(scale.mean + rate * gap, variance, updates)


def rescale(networks: PyTree, before: ValueScale, after: ValueScale) -> PyTree:
    """Return networks whose values in units of the reward are under `after` what they were under `before`.

    With the last layer's weights W and bias b, W' = W σ / σ' and b' = (σ b + μ − μ') / σ'. Before the first targets
    there was nothing to keep: the layer stays as it was initialised.
    """
    began = before.updates > 0
    factor = jnp.where(began, before.std / after.std, 1.0)
    shift = jnp.where(began, (before.mean - after.mean) / after.std, 0.0)

    def change(path: tuple[Any, ...], leaf: Array) -> Array:
        *_, layer, kind = ("", *(str(getattr(part, "key", "")) for part in path))
        if layer != VALUE_LAYER:
            return leaf
        return leaf * factor if kind == "kernel" else leaf * factor + shift

    return jax.tree_util.tree_map_with_path(change, networks)


__all__ = ["VALUE_LAYER", "ValueScale", "for_network", "from_network", "no_statistics", "rescale", "with_targets"]
