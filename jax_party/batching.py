"""Several learners of one program side by side: one after another (`map`), or in one batched program (`vmap`).

`map` calls the functions that a single learner uses, so that each learner's bits are those it would have alone, and a
replay buffer is never copied. `vmap` makes one program of all; it computes both sides of every branch, and agrees with
`map` to float tolerance. Which is faster depends on the device and the sizes: `choose` times both.
"""

from __future__ import annotations

import enum
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from jax_party import records
from jax_party.evaluation import Evaluation
from jax_party.program import Program
from jax_party.runtime import compilation_cache_dir
from jax_party.systems.base import Hyper, LearnerState, UpdateOutput

_CHOICES = "batch_forms"
_TIMED_UPDATES = 3
_MOST_WARM_UP = 1000

_logger = logging.getLogger(__name__)


class Form(enum.StrEnum):
    """How several learners go through a program."""

    MAP = "map"
    VMAP = "vmap"


@dataclass(frozen=True)
class Batch:
    """A way for learners to go through a program.

    Args:
      program: their functions.
      form: one after another, or in one batched program.
      width: how many a batched program is made for; fewer learners are filled up with copies of the first, so that the
        program, and with it every bit of each learner, stays the same when others leave.
    """

    program: Program
    form: Form = Form.MAP
    width: int = 1

    @property
    def batched(self) -> bool:
        """Whether learners go through in one batched program."""
        return self.form is Form.VMAP and self.width > 1

    def compile(self, hyper: Hyper) -> None:
        """Compile what training and evaluation call."""
        self.program.compile(hyper, ("update", "evaluate"), self.width if self.batched else 1)

    def evaluate(
        self, hypers: Sequence[Hyper], params: Sequence[PyTree], keys: Sequence[PRNGKeyArray]
    ) -> list[Evaluation]:
        """One evaluation for each learner."""
        if not self.batched:
            return [self.program.evaluate(*one) for one in zip(hypers, params, keys, strict=True)]
        self.compile(hypers[0])
        compiled = self.program.compiled["evaluate", self.width]
        together = compiled(*(stack(self.filled(trees)) for trees in (hypers, params, keys)))
        return unstack(together, self.width)[: len(hypers)]

    def filled(self, trees: Sequence[PyTree]) -> list[PyTree]:
        """As many trees as the batched program is made for."""
        return [*trees, *[trees[0]] * (self.width - len(trees))]


class Learners:
    """Learners that are updated together.

    Args:
      batch: how they go through which program.
      hypers: each one's traced numbers.
      states: where each one stands; not to be used any more.
    """

    def __init__(self, batch: Batch, hypers: Sequence[Hyper], states: Sequence[LearnerState]) -> None:
        self._batch = batch
        self._number = len(hypers)
        self._hypers, self._states = list(hypers), list(states)
        if batch.batched:
            self._hyper, self._state = stack(batch.filled(hypers)), stack(batch.filled(states))
            self._states = []

    def update(self) -> list[UpdateOutput]:
        """One update of every learner."""
        program, width = self._batch.program, self._batch.width
        if not self._batch.batched:
            pairs = [program.update(*pair) for pair in zip(self._hypers, self._states, strict=True)]
            self._states = [state for state, _ in pairs]
            return [output for _, output in pairs]
        self._batch.compile(self._hypers[0])
        self._state, outputs = program.compiled["update", width](self._hyper, self._state)
        return unstack(outputs, width)[: self._number]

    def release(self) -> list[LearnerState]:
        """Each learner's state, computed; these learners are not to be used any more."""
        states, self._states = self._states, []
        if self._batch.batched:
            states = unstack(self._state, self._batch.width)[: self._number]
            del self._state
        return jax.block_until_ready(states)


@jax.jit
def _stack(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Trees of equal structure as one, with a new leading axis."""
    return _stack(list(trees))


def unstack(tree: PyTree, number: int) -> list[PyTree]:
    """The inverse of `stack`, for `number` trees."""
    return list(_unstack(tree, number))


def _pieces(tree: PyTree, number: int) -> tuple[PyTree, ...]:
    return tuple(jax.tree.map(lambda leaf, at=index: leaf[at], tree) for index in range(number))


_unstack = jax.jit(_pieces, static_argnums=1)


def choose(program: Program, hypers: Sequence[Hyper], states: Sequence[LearnerState], signature: str) -> Form:
    """The faster form for these learners.

    Both are compiled, and timed over a few updates on copies of the states, past the steps in which nothing is learned.
    The choice is kept beside the compiled programs and read from there the next time.

    Args:
      program: their functions.
      hypers: each one's traced numbers.
      states: where each one stands; left as they are.
      signature: the compile signature, which names the device and the version of JAX too.
    """
    if len(states) == 1 or len(program.devices) > 1:
        return Form.MAP
    path = compilation_cache_dir().parent / _CHOICES / f"{signature}-{len(states)}-{os.environ.get('NPROC', '')}.json"
    remembered = _remembered(path)
    if remembered is not None:
        return remembered
    states = _warm(program, hypers, states)
    batches = [Batch(program, form, len(states)) for form in Form]
    seconds = {batch.form: _time(Learners(batch, hypers, _copies(states))) for batch in batches}
    best = min(seconds, key=lambda form: seconds[form])
    _logger.info("%d learners at once: %s", len(states), ", ".join(f"{f} {s:.3f} s" for f, s in seconds.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write_json_atomically(path, {"form": best, "seconds_per_update": seconds})
    return best


def _remembered(path: Path) -> Form | None:
    try:
        return Form(json.loads(path.read_text(encoding="utf-8"))["form"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _warm(program: Program, hypers: Sequence[Hyper], states: Sequence[LearnerState]) -> list[LearnerState]:
    """Copies of the states, played on until they learn."""
    learners = Learners(Batch(program), hypers, _copies(states))
    for _ in range(_MOST_WARM_UP):
        losses = learners.update()[0].losses
        if float(losses.get("gradient_steps", 1.0)):
            break
    return learners.release()


def _time(learners: Learners) -> float:
    """Seconds an update, compiling left out."""
    jax.block_until_ready(learners.update())
    start = time.perf_counter()
    for _ in range(_TIMED_UPDATES):
        outputs = learners.update()
    jax.block_until_ready(outputs)
    seconds = (time.perf_counter() - start) / _TIMED_UPDATES
    learners.release()
    return seconds


def _copies(states: Sequence[LearnerState]) -> list[LearnerState]:
    return [jax.tree.map(jnp.copy, state) for state in states]


__all__ = ["Batch", "Form", "Learners", "choose", "stack", "unstack"]
