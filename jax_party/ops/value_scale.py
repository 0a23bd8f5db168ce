"""PopArt: values in the units of a network, with mean 0 and standard deviation 1, and in those of the reward.

A critic that regresses returns of about 1,000 needs very many gradient steps to get there, and clips or weights its
loss in units that no default can know. So it regresses (G − μ) / σ with running statistics μ, σ of the targets G. When
these change, the last layer is rescaled so that the network's outputs in units of the reward stay the same.

Source: van Hasselt et al. 2016, "Learning values across many orders of magnitude", https://arxiv.org/abs/1602.07714;
Hessel et al. 2018, https://arxiv.org/abs/1809.04474, eq. 3 to 7; for MAPPO Yu et al. 2021,
https://arxiv.org/abs/2103.01955, section 5.1.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

LEAST_RATE: Final = 0.01
"""The least weight of the newest batch of targets; until it is reached, all batches have equal weight."""
LEAST_STD: Final = 1e-4
"""The least value of σ once there are statistics: returns that are all equal have no spread."""
VALUE_LAYER: Final = "value_layer"
"""The name of a critic's last layer, which is rescaled."""


class ValueScale(NamedTuple):
    """Running statistics of value targets.

    Attributes:
      mean: () float32, μ.
      variance: () float32, σ².
      updates: () float32, the number of batches of targets that they cover.
    """

    mean: Float[Array, ""]
    variance: Float[Array, ""]
    updates: Float[Array, ""]

    @property
    def std(self) -> Float[Array, ""]:
        """σ; 0 before the first targets, so that all values are 0 whatever the network outputs."""
        return jnp.where(self.updates > 0, jnp.maximum(jnp.sqrt(self.variance), LEAST_STD), 0.0)


def no_statistics() -> ValueScale:
    """Return the statistics before the first targets."""
    return ValueScale(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))


def from_network(scale: ValueScale | None, value: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Return values in units of the reward, σ v + μ; unchanged if `scale` is None."""
    return value if scale is None else scale.std * value + scale.mean


def for_network(scale: ValueScale | None, value: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Return values in the network's units, (v − μ) / σ; unchanged if `scale` is None. Statistics must exist."""
    return value if scale is None else (value - scale.mean) / scale.std


def with_targets(scale: ValueScale, target: Float[Array, "*b"]) -> ValueScale:
    """Return the statistics updated with one more batch of targets.

    They are the mean over the first hundred batches, then an exponential average: with the rate r = max(1 / n, 0.01)
    and the batch's mean m and variance s², μ' = μ + r (m − μ) and σ'² = (1 − r) σ² + r s² + r (1 − r) (m − μ)².
    """
    updates = scale.updates + 1
    rate = jnp.maximum(1.0 / updates, LEAST_RATE)
    gap = target.mean() - scale.mean
    variance = (1.0 - rate) * scale.variance + rate * target.var() + rate * (1.0 - rate) * gap**2
    return ValueScale(scale.mean + rate * gap, variance, updates)


def rescale(networks: PyTree, before: ValueScale, after: ValueScale) -> PyTree:
    """Return networks whose values in units of the reward are the same under `after` as they were under `before`.

    With the last layer's weights W and bias b, W' = W σ / σ' and b' = (σ b + μ − μ') / σ'. Before the first targets
    there is nothing to preserve: the layer stays as it was initialised.
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
