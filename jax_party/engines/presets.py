"""Presets: `+preset=mava` among the overrides of a config selects the preset's file for the system at hand.

Hydra itself cannot choose a file by the system: what is appended to a defaults list is read before the rest of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from jax_party.errors import ConfigError

PRESET = "preset"


def expand_presets(folder: Path | None, system: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """Replace each `+preset=<name>` by the override that names the system's own file, `+preset=<name>/<system>`.

    Args:
      folder: the folder of the presets, with one folder per preset and in it one file per system; None if the engine
        has no presets.
      system: the config's name, such as `ff_mappo`.
      overrides: Hydra's overrides.

    Raises:
      ConfigError: there is no such preset, or the preset has no such system.
    """
    return tuple(_expand(folder, system, word) for word in overrides)


def _expand(folder: Path | None, system: str, word: str) -> str:
    asked = re.fullmatch(rf"(\+*){PRESET}=(.*)", word)
    if asked is None:
        return word
    name = asked.group(2)
    if folder is None:
        raise ConfigError(f"{word}: presets are for our own systems, ENGINE=mava has Mava's own defaults; leave it out")
    presets = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if name not in presets:
        close = difflib.get_close_matches(name, presets, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"{word}: unknown preset; {hint}choose one of {', '.join(presets)}")
    if asked.group(1) != "+":
        raise ConfigError(f"{word}: a preset is added to a config; write +{PRESET}={name}")
    systems = sorted(path.stem for path in (folder / name).glob("*.yaml"))
    if system not in systems:
        raise ConfigError(f"{word}: the preset has no {system}; leave it out, or choose one of {', '.join(systems)}")
    return f"{word}/{system}"


__all__ = ["PRESET", "expand_presets"]
