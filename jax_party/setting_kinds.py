"""Markers in a type that say when a setting is read: none (static), `Traced`, or `Host`.

A static setting changes shapes or program structure. A traced one is a number that is passed to the compiled program
as an argument, so that changing it does not recompile. A host one is read only by the outer loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar


@dataclass(frozen=True)
class Marker:
    """A marker for `typing.Annotated`; compared by `name`."""

    name: str


TRACED = Marker("traced")
HOST = Marker("host")

T = TypeVar("T")

Traced = Annotated[float, TRACED]
Host = Annotated[T, HOST]
