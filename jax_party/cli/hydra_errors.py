"""Hydra's errors in one line: the value, the place, the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from jax_party.engines import ConfigTree


def explain_hydra_error(
    error: BaseException, tree: ConfigTree, overrides: Sequence[str] = (), config_name: str | None = None
) -> str:
    """Return one line for an error of Hydra or OmegaConf.

    Args:
      error: what was raised while composing.
      tree: the config tree, for the existing options and keys.
      overrides: those of the command line, for errors that cannot be located more precisely.
      config_name: the name of the system's config, for its keys.
    """
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    text = " ".join(" ".join(str(cause) for cause in causes).split())
    option = re.search(r"Could not (?:find|load) '?([\w/.-]+)/([\w.\-]+)'?", text)
    if option:
        group, name = option.group(1), option.group(2).rstrip(".")
        return f"{group}={name}: unknown option; {_suggest(name, tree.options(group))}"
    config = re.search(r"Cannot find primary config '([\w.-]+)'", text)
    if config:
        name = config.group(1).removesuffix(".yaml")
        return f"--config-name {name}: unknown; {_suggest(name, tree.options('default'))}"
    key = re.search(r"Could not override '([\w.]+)'", text) or re.search(r"full_key: ([\w.]+)", text)
    if key:
        return f"{key.group(1)}: unknown; {_suggest_key(key.group(1), tree, config_name)}"
    return f"{' '.join(overrides)}: {text}" if overrides else text


def _suggest(value: str, options: Sequence[str]) -> str:
    close = difflib.get_close_matches(value, options, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}choose one of {', '.join(options)}" if options else "there is no such group"


def _suggest_key(key: str, tree: ConfigTree, config_name: str | None) -> str:
    group, _, name = key.rpartition(".")
    keys = [known for known in tree.keys(group.split(".") if group else [], config_name) if known != name]
    if not keys:
        return f"there is no group {group}"
    close = difflib.get_close_matches(name, keys, n=1)
    return f"did you mean {close[0]}?" if close else f"{group or 'the config'} has {', '.join(keys)}"
