"""Several vaults as one data set: batches of slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jax_party.errors import VaultError
from results.vaults.store import Fields, FieldSpec, Vault

CORE: tuple[str, ...] = ("done", "action", "reward", "observation", "legal_action_mask")


class Dataset:
    """Batches of slices of `length` steps of one environment each, from several vaults, read on demand.

    Slices do not overlap; the remainder at the end of a vault is left out.

    Args:
      vaults: with the same fields in the same shapes.
      length: steps per slice.
      batch: slices per batch; the last batch may have fewer.
      fields: names, None for all that every vault has.
      seed: seed of the order; None orders by vault, time and environment.

    Raises:
      VaultError: a field is missing or differs between vaults, or no vault is long enough for a slice.
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
        """The number of slices per epoch."""
        return len(self._slices)

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return -(-len(self._slices) // self._batch)

    def __iter__(self) -> Iterator[Fields]:
        """Iterate over the first epoch."""
        return self.epoch(0)

    def epoch(self, number: int) -> Iterator[Fields]:
        """Yield the batches of an epoch, field -> (batch, length, …); with a seed, each epoch has its own order."""
        order = np.arange(len(self._slices))
        if self._seed is not None:
            order = np.random.default_rng((self._seed, number)).permutation(order)
        for first in range(0, len(order), self._batch):
            yield self._read(self._slices[order[first : first + self._batch]])

    def _read(self, slices: np.ndarray) -> Fields:
        """Read a batch; slices of the same vault and time are read together."""
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
    """Return the fields that all vaults have with the same dtype and shape, or those of `fields`.

    Raises:
      VaultError: there are no vaults, or a requested or core field differs between vaults.
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
