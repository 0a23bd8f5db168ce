"""Many vaults as one dataset: batches of slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jax_party.errors import VaultError
from results.vaults.store import Fields, FieldSpec, Vault

CORE: tuple[str, ...] = ("done", "action", "reward", "observation", "legal_action_mask")


class Dataset:
    """Batches of slices of `length` steps of one environment each, from several vaults, read as they are asked for.

    Slices do not overlap; what is left of a vault at its end is left out.

    Args:
      vaults: with the same fields in the same shapes.
      length: steps of a slice.
      batch: slices of a batch; the last batch may have fewer.
      fields: names, None for all that every vault has.
      seed: of the order; None goes by vault, time and environment.

    Raises:
      VaultError: a field is not there or differs between vaults, or no slice fits.
    """

    def __init__(
        self,
        vaults: Sequence[Vault],
        length: int,
        batch: int = 32,
        fields: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> None:
        if length < 1 or batch < 1:
            raise VaultError(f"length {length}, batch {batch}: give numbers of 1 or more")
        self.fields = list(shared_fields(vaults, fields))
        self._vaults = list(vaults)
        self._length, self._batch, self._seed = length, batch, seed
        slices = [
            (number, start, env)
            for number, vault in enumerate(vaults)
            for start in range(0, vault.steps - length + 1, length)
            for env in range(vault.rows)
        ]
        if not slices:
            longest = max(vault.steps for vault in vaults)
            raise VaultError(f"length {length}: no vault has so many steps; give at most {longest}")
        self._slices = np.array(slices)

    @property
    def num_slices(self) -> int:
        """How many slices an epoch has."""
        return len(self._slices)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._slices) // self._batch)

    def __iter__(self) -> Iterator[Fields]:
        """The first epoch."""
        return self.epoch(0)

    def epoch(self, number: int) -> Iterator[Fields]:
        """The batches of an epoch, field -> (batch, length, …); each epoch has an order of its own under the seed."""
        order = np.arange(len(self._slices))
        if self._seed is not None:
            order = np.random.default_rng((self._seed, number)).permutation(order)
        for first in range(0, len(order), self._batch):
            yield self._read(self._slices[order[first : first + self._batch]])

    def _read(self, slices: np.ndarray) -> Fields:
        """Slices of one vault and time are read together."""
        parts: dict[tuple[int, int], list[int]] = {}
        for place, (vault, start, _) in enumerate(slices.tolist()):
            parts.setdefault((vault, start), []).append(place)
        batch: Fields = {}
        for (number, start), places in parts.items():
            time = slice(start, start + self._length)
            read = self._vaults[number].read(self.fields, time, slices[places, 2].tolist())
            for name, values in read.items():
                batch.setdefault(name, np.empty((len(slices), *values.shape[1:]), values.dtype))[places] = values
        return batch


def shared_fields(vaults: Sequence[Vault], fields: Sequence[str] | None = None) -> dict[str, FieldSpec]:
    """The fields that all vaults have in the same dtype and shape, or those of `fields`.

    Raises:
      VaultError: there are no vaults, or a field that was named, or one of those that every vault has, differs.
    """
    if not vaults:
        raise VaultError("no vaults were given; name at least one")
    first = vaults[0]
    names = list(first.fields) if fields is None else list(fields)
    shared = {}
    for name in names:
        differing = [vault for vault in vaults if vault.fields.get(name) != first.spec(name)]
        if not differing:
            shared[name] = first.spec(name)
        elif fields is not None or name in CORE:
            other = differing[0]
            theirs = other.spec(name)
            raise VaultError(f"{other.path}: {name} is {theirs.dtype} {theirs.shape}, but {first.spec(name).dtype} "
                             f"{first.spec(name).shape} in {first.path}; choose vaults of one game")  # fmt: skip
    return shared


__all__ = ["Dataset", "shared_fields"]
