"""Checked scalar types of settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

FROZEN = ConfigDict(extra="forbid", allow_inf_nan=False)
Scalar = bool | int | float | str | None


def _number(value: object) -> object:
    """Refuse strings and booleans, which pydantic would convert to a number."""
    if isinstance(value, (str, bool)):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


PositiveInt = Annotated[int, Field(ge=1), BeforeValidator(_number)]
NonNegativeInt = Annotated[int, Field(ge=0), BeforeValidator(_number)]
Rate = Annotated[float, Field(ge=0.0, le=1.0), BeforeValidator(_number)]
NonNegative = Annotated[float, Field(ge=0.0), BeforeValidator(_number)]
Positive = Annotated[float, Field(gt=0.0), BeforeValidator(_number)]
