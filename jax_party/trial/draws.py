"""A searcher's draws without a trial of their own: `draws.json` in the sweep's folder.

A searcher that learns may draw a configuration that the sweep has already. Such a draw is answered from the trials that
are there (`DUPLICATES=reuse`), or refused until the space counts as exhausted (`DUPLICATES=refuse`). Either way numbers
of the plan stay without a trial; whoever counts what is left of a sweep has to know them.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jax_party.errors import RecordError
from jax_party.store.files import write_json_atomically
from jax_party.store.storage import as_folder, store_of

DRAWS_FILE: Final = "draws.json"


@dataclass
class Draws:
    """Numbers of a plan without a trial of their own.

    Attributes:
      answered: the number that the first trial of a draw would have had -> ids of the trials that answer it.
      left_out: group of trials -> numbers that were never drawn, because its space counts as exhausted.
    """

    answered: dict[int, tuple[str, ...]] = field(default_factory=dict)
    left_out: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Draws:
        """Read the draws of the sweep in `folder`; none if it has no such file.

        Raises:
          RecordError: the file cannot be read.
        """
        path = as_folder(folder) / DRAWS_FILE
        try:
            found = json.loads(store_of(path).read_bytes(path))
            return cls(
                {int(number): tuple(map(str, ids)) for number, ids in found["answered"].items()},
                {str(group): tuple(map(int, numbers)) for group, numbers in found["left_out"].items()},
            )
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(
                f"{path}: cannot be read ({error}); restore it, or remove it to redo its draws"
            ) from error

    def write(self, folder: Path) -> None:
        """Write `draws.json` into the sweep's folder."""
        content: dict[str, Any] = {
            "answered": {str(number): list(ids) for number, ids in sorted(self.answered.items())},
            "left_out": {group: list(numbers) for group, numbers in sorted(self.left_out.items())},
        }
        write_json_atomically(as_folder(folder) / DRAWS_FILE, content)

    @property
    def numbers(self) -> set[int]:
        """All numbers without a trial of their own."""
        answered = {first + place for first, ids in self.answered.items() for place in range(len(ids))}
        return answered.union(*self.left_out.values())

    def __len__(self) -> int:
        return sum(map(len, self.answered.values())) + sum(map(len, self.left_out.values()))

    def leave_out(self, group: str, numbers: Iterable[int]) -> None:
        """Record that a group's space is exhausted, so that these numbers are not drawn."""
        self.left_out[group] = tuple(sorted({*self.left_out.get(group, ()), *numbers}))

    def forget_missing(self, known: Container[str]) -> None:
        """Drop answers by trials that no longer exist, so that those draws are made again."""
        self.answered = {
            number: ids for number, ids in self.answered.items() if all(trial_id in known for trial_id in ids)
        }

    def describe(self) -> list[str]:
        """Return what became of repeated draws: one line for those answered, one for those refused."""
        lines = []
        if self.answered:
            several = len(self.answered) > 1
            lines.append(
                f"{len(self.answered)} draw{'s' * several} repeated a configuration of the sweep and "
                f"{'were' if several else 'was'} answered from its trials: nothing was trained twice"
            )
        if self.left_out:
            fewer = ", ".join(f"{len(numbers)} fewer of {group}" for group, numbers in sorted(self.left_out.items()))
            lines.append(
                f"The space counts as exhausted, as draw after draw repeated a configuration (DUPLICATES=refuse); "
                f"trials: {fewer}"
            )
        return lines


__all__ = ["DRAWS_FILE", "Draws"]
