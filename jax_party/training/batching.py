"""Several learners of one program side by side: one after another (`map`), or in one batched program (`vmap`).

`map` calls the same functions as a single learner, so that each learner gets bitwise the results it would have alone,
and a replay buffer is never copied. `vmap` makes one program for all; it computes both sides of every branch, and
agrees with `map` to float tolerance. Which one is faster depends on the device and the sizes: `choose` times both.
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

from jax_party.errors import RecordError
from jax_party.runtime import compilation_cache_dir
from jax_party.store.files import write_json_atomically
from jax_party.systems.base import Hyper, LearnerState, UpdateOutput
from jax_party.training.evaluation import Evaluation
from jax_party.training.program import Program

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
    """How learners go through a program.

    Args:
      program: their functions.
      width: the number of learners per call, in a batched program compiled for that number; 1 means one after another.
        An incomplete group is padded with copies, so that the program, and with it every bit of each learner, stays the
        same when other learners come or leave.
    """

    program: Program
    width: int = 1

    def compile(self, hyper: Hyper) -> None:
        """Compile the functions that training and evaluation call."""
        self.program.compile(hyper, ("update", "evaluate"), self.width)

    def evaluate(
        self, hypers: Sequence[Hyper], params: Sequence[PyTree], keys: Sequence[PRNGKeyArray]
    ) -> list[Evaluation]:
        """Return one evaluation per learner."""
        found: list[Evaluation] = []
        for at in self.groups(len(hypers)):
            if self.width == 1:
                found.append(self.program.evaluate(hypers[at][0], params[at][0], keys[at][0]))
                continue
            self.compile(hypers[0])
            arguments = (stack(self.filled(trees[at])) for trees in (hypers, params, keys))
            together = self.program.compiled["evaluate", self.width](*arguments)
            found += unstack(together, self.width)[: len(hypers[at])]
        return found

    def groups(self, number: int) -> list[slice]:
        """Return the slices of `number` learners that go through the program together."""
        return [slice(begin, min(begin + self.width, number)) for begin in range(0, number, self.width)]

    def filled(self, trees: Sequence[PyTree]) -> list[PyTree]:
        """Return the trees padded to the width with copies of the first."""
        return [*trees, *[trees[0]] * (self.width - len(trees))]


class Learners:
    """Learners that are updated together.

    Args:
      batch: how they go through which program.
      hypers: each learner's traced numbers.
      states: each learner's state; the caller must not use them afterwards.
    """

    def __init__(self, batch: Batch, hypers: Sequence[Hyper], states: Sequence[LearnerState]) -> None:
        self._batch = batch
        self._sizes = [at.stop - at.start for at in batch.groups(len(hypers))]
        self._hypers, self._states = list(hypers), list(states)
        if batch.width > 1:
            groups = batch.groups(len(hypers))
            self._hypers = [stack(batch.filled(hypers[at])) for at in groups]
            self._states = [stack(batch.filled(states[at])) for at in groups]
            batch.compile(hypers[0])

    def update(self) -> list[UpdateOutput]:
        """Update every learner once."""
        program, width = self._batch.program, self._batch.width
        outputs: list[UpdateOutput] = []
        for index, hyper in enumerate(self._hypers):
            if width == 1:
                self._states[index], output = program.update(hyper, self._states[index])
                outputs.append(output)
            else:
                self._states[index], together = program.compiled["update", width](hyper, self._states[index])
                outputs += unstack(together, width)[: self._sizes[index]]
        return outputs

    def release(self) -> list[LearnerState]:
        """Return each learner's state, computed; this object must not be used afterwards."""
        states, self._states = self._states, []
        if self._batch.width > 1:
            groups = zip(states, self._sizes, strict=True)
            states = [one for group, size in groups for one in unstack(group, self._batch.width)[:size]]
        return jax.block_until_ready(states)


@jax.jit
def _stack(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stack trees of equal structure along a new leading axis."""
    return _stack(list(trees))


def unstack(tree: PyTree, number: int) -> list[PyTree]:
    """Split a tree into `number` trees, the inverse of `stack`."""
    return list(_unstack(tree, number))


def _pieces(tree: PyTree, number: int) -> tuple[PyTree, ...]:
    return tuple(jax.tree.map(lambda leaf, at=index: leaf[at], tree) for index in range(number))


_unstack = jax.jit(_pieces, static_argnums=1)


def width_of(form: Form, learners: int) -> int:
    """Return the number of learners per call."""
    return learners if form is Form.VMAP else 1


def choose(program: Program, hypers: Sequence[Hyper], states: Sequence[LearnerState], signature: str) -> Form:
    """Return the faster form for these learners.

    Both are compiled, and timed over a few updates on copies of the states that have trained until they learn. The
    choice is stored with the compiled programs and read from there the next time.

    Args:
      program: their functions.
      hypers: each learner's traced numbers.
      states: each learner's state; not modified.
      signature: the compile signature, which includes the device and the version of JAX.
    """
    if len(states) == 1 or len(program.devices) > 1:
        return Form.MAP
    path = compilation_cache_dir() / _CHOICES / f"{signature}-{len(states)}-{os.environ.get('NPROC', '')}.json"
    remembered = _remembered(path)
    if remembered is not None:
        return remembered
    states = _warm(program, hypers, states)
    batches = {form: Batch(program, width_of(form, len(states))) for form in Form}
    seconds = {form: _time(Learners(batch, hypers, _copies(states))) for form, batch in batches.items()}
    best = min(seconds, key=lambda form: seconds[form])
    _logger.info("%d learners at once: %s", len(states), ", ".join(f"{f} {s:.3f} s" for f, s in seconds.items()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(path, {"form": best, "seconds_per_update": seconds})
    except (OSError, RecordError) as error:
        _logger.warning("%s: cannot be kept: %s", path, error)
    return best


def _remembered(path: Path) -> Form | None:
    try:
        return Form(json.loads(path.read_text(encoding="utf-8"))["form"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _warm(program: Program, hypers: Sequence[Hyper], states: Sequence[LearnerState]) -> list[LearnerState]:
    """Return copies of the states, trained until they take gradient steps."""
    learners = Learners(Batch(program), hypers, _copies(states))
    for _ in range(_MOST_WARM_UP):
        losses = learners.update()[0].losses
        if float(losses.get("gradient_steps", 1.0)):
            break
    return learners.release()


def _time(learners: Learners) -> float:
    """Return the seconds per update, without compiling."""
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


__all__ = ["Batch", "Form", "Learners", "choose", "stack", "unstack", "width_of"]
