"""The Hydra config tree, in Mava's groups, and the function that composes it.

Importing this package is cheap; Hydra is imported by the first `compose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax_party.cli.hydra_errors import explain_hydra_error
from jax_party.engines import NATIVE, get_engine
from jax_party.errors import ConfigError

CONFIG_DIR = Path(__file__).parent
ALGORITHMS: tuple[str, ...] = tuple(sorted(path.stem for path in (CONFIG_DIR / "default").glob("*.yaml")))
ALIASES: dict[str, str] = {
    "ippo": "ff_ippo",
    "mappo": "ff_mappo",
    "sable": "ff_sable",
    "idqn": "ff_iql",
    "qmix": "rec_qmix",
    "sac": "ff_isac",
    "masac": "ff_masac",
    "hasac": "ff_hasac",
}


def resolve_algorithm(name: str) -> str:
    """Return the system's name, given the name or an alias: `mappo` -> `ff_mappo`.

    Raises:
      ConfigError: the name is unknown; the message lists the known ones.
    """
    resolved = ALIASES.get(name, name)
    if resolved not in ALGORITHMS:
        aliases = {algorithm: alias for alias, algorithm in ALIASES.items()}
        known = ", ".join(f"{a} ({aliases[a]})" if a in aliases else a for a in ALGORITHMS)
        raise ConfigError(f"ALG={name}: unknown system; choose one of {known}")
    return resolved


def scenarios(env: str | None = None) -> list[str]:
    """Return the scenarios in the tree, sorted; with `env` (a group such as `jaxparty`) only that environment's."""
    import yaml

    paths = sorted((CONFIG_DIR / "env" / "scenario").glob("*.yaml"))
    if env is None:
        return [path.stem for path in paths]
    group = yaml.safe_load((CONFIG_DIR / "env" / f"{env}.yaml").read_text())
    first = next(entry["scenario"] for entry in group["defaults"] if isinstance(entry, dict) and "scenario" in entry)
    wanted = yaml.safe_load((CONFIG_DIR / "env" / "scenario" / f"{first}.yaml").read_text())["name"]
    return [path.stem for path in paths if yaml.safe_load(path.read_text())["name"] == wanted]


def compose(config_name: str, overrides: Sequence[str] = (), engine: str = NATIVE) -> dict[str, Any]:
    """Compose one experiment's config with Hydra.

    Args:
      config_name: a file in `mava_configs/default`, such as `ff_mappo`.
      overrides: Hydra overrides, such as `env/scenario=p-no-rank` or `system.actor_lr=3e-4`, and `+preset=mava`.
      engine: the engine whose config tree is composed.

    Returns:
      The composed config as plain dictionaries, lists and scalars, with interpolations resolved.

    Raises:
      ConfigError: a config, group, option, key or preset is unknown, or the engine is not available.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    resolve_algorithm(config_name)
    tree = get_engine(engine).tree()
    try:
        with initialize_config_dir(tree.folder, version_base="1.3"):
            composed = hydra_compose(config_name, overrides=tree.words(config_name, overrides))
        container = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain_hydra_error(error, tree, overrides, config_name)) from None
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
