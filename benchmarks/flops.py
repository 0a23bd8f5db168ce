"""Floating-point operations of dense networks, counted from their layers' shapes. Needs no JAX.

Only matrix multiplications count; a multiply-add is 2. Biases, activations, losses, optimisers and the game are left
out, so the bound that these counts give can be approached but not reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Layers = Sequence[tuple[int, int]]
"""(inputs, outputs) of each layer, from the first to the head."""


@dataclass(frozen=True, order=True)
class Matmul:
    """One matrix multiplication of a layer.

    Attributes:
      kind: `forward` (x @ w), `weights` (the weights' gradient, x.T @ dy) or `inputs` (dy @ w.T).
      rows: samples.
      inputs, outputs: of the layer.
    """

    kind: str
    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """2 a multiply-add."""
        return 2 * self.rows * self.inputs * self.outputs


Counts = Mapping[Matmul, int]
"""How often each multiplication is done."""


def forward(layers: Layers, rows: int) -> dict[Matmul, int]:
    """The multiplications of a forward pass over `rows` samples."""
    return _tally([Matmul("forward", rows, inputs, outputs) for inputs, outputs in layers])


def backward(layers: Layers, rows: int) -> dict[Matmul, int]:
    """The multiplications of a backward pass: two a layer, but the first layer's inputs need no gradient."""
    weights = [Matmul("weights", rows, inputs, outputs) for inputs, outputs in layers]
    return _tally(weights + [Matmul("inputs", rows, inputs, outputs) for inputs, outputs in layers[1:]])


def update(
    actor: Layers, critic: Layers, *, steps: int, envs: int, agents: int, epochs: int, minibatches: int
) -> dict[Matmul, int]:
    """The multiplications of one PPO update.

    The actor acts at every step of the rollout, the critic judges the whole rollout at once, and both are run forward
    and backward on every minibatch of every epoch. Bootstrap values (one row an environment and agent) are left out.
    """
    rows = steps * envs * agents
    if rows % minibatches:
        raise ValueError(f"minibatches: {minibatches} does not divide {rows} rows")
    learning = [part for network in (actor, critic) for part in _learning(network, rows // minibatches)]
    return _add(
        (forward(actor, envs * agents), steps),
        (forward(critic, rows), 1),
        *((part, epochs * minibatches) for part in learning),
    )


def total(counts: Counts) -> int:
    """FLOPs of all the multiplications."""
    return sum(matmul.flops * times for matmul, times in counts.items())


def _learning(layers: Layers, rows: int) -> list[dict[Matmul, int]]:
    return [forward(layers, rows), backward(layers, rows)]


def _tally(matmuls: Sequence[Matmul]) -> dict[Matmul, int]:
    return {matmul: matmuls.count(matmul) for matmul in matmuls}


def _add(*parts: tuple[Counts, int]) -> dict[Matmul, int]:
    added: dict[Matmul, int] = {}
    for counts, times in parts:
        for matmul, number in counts.items():
            added[matmul] = added.get(matmul, 0) + number * times
    return added
