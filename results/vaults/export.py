"""Vaults in the formats of other tools: Parquet, and OG-MARL's vaults. `docs/trajectories.md` describes both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jax_party.errors import VaultError
from jax_party.store.local import aside
from results.vaults.dataset import CORE, shared_fields
from results.vaults.episode_bounds import Episode, episodes
from results.vaults.store import Fields, FieldSpec, Vault, create


def export_parquet(vaults: Sequence[Vault], to: str | Path, fields: Sequence[str] | None = None) -> Path:
    """Write a table with one row per transition and agent.

    Args:
      vaults: of one game.
      to: the new file.
      fields: names, None for all that every vault has.

    Returns:
      The file: `trial_id`, `vault`, `env`, `step` (of the vault), `episode` (counted per environment; -1 after a test
      episode's end), `t` (step of the episode), `whole`, `agent`, and the fields; a field with further axes is a list.

    Raises:
      VaultError: the file already exists or cannot be written, or the vaults differ.
    """
    to = Path(to)
    if to.exists():
        raise VaultError(f"{to}: is there already; name a new file")
    names = list(shared_fields(vaults, fields))
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with aside(to, durable=False, name=f".{to.name}.new") as place, contextlib.ExitStack() as opened:
            writer: pq.ParquetWriter | None = None
            for vault in vaults:
                for table in _tables(vault, names):
                    if writer is None:
                        writer = opened.enter_context(pq.ParquetWriter(place, table.schema, compression="zstd"))
                    writer.write_table(table)
    except OSError as error:
        raise VaultError(f"{to}: cannot be written ({error.strerror}); name another file") from error
    return to


def export_og_marl(vaults: Sequence[Vault], to: str | Path, label: str, partial: bool = False) -> list[Path]:
    """Write one vault per task, `<to>/<environment>/<scenario>.vlt/<label>`, in the format that OG-MARL's tools read.

    It has one row, in which the episodes are concatenated. The end of an episode is marked in `terminals`, or in
    `truncations` if the episode was cut by the time limit.

    Args:
      vaults: whose metadata name their task.
      to: OG-MARL's folder of vaults (`rel_dir`).
      label: the data set's name there (`vault_uid`), such as `Replay`.
      partial: include episodes whose beginning or end was not recorded; they end in a truncation.

    Returns:
      The new vaults' folders.

    Raises:
      VaultError: a vault's task is unknown or it was thinned to every k-th step, the vaults of a task differ, there is
        no whole episode, or a vault of that name already exists.
    """
    of_task: dict[tuple[str, str], list[Vault]] = {}
    for vault in vaults:
        of_task.setdefault(_task(vault), []).append(vault)
    written = []
    for (environment, scenario), several in of_task.items():
        path = Path(to) / environment / f"{scenario}.vlt" / label
        _export_task(several, path, partial)
        written.append(path)
    return written


def _export_task(vaults: Sequence[Vault], path: Path, partial: bool) -> None:
    specs = shared_fields(vaults, CORE)
    found = [[one for one in episodes(vault) if one.whole or partial] for vault in vaults]
    if not any(found):
        raise VaultError(f"{vaults[0].path}: no whole episode in it; take those that were cut, too, with --partial")
    agents, features = specs["observation"].shape
    actions = specs["legal_action_mask"].shape[-1]
    float32, int32 = np.dtype(np.float32), np.dtype(np.int32)
    fields = {
        "observations": FieldSpec(float32, (agents, features)),
        "actions": FieldSpec(int32, (agents,)),
        "rewards": FieldSpec(float32, (agents,)),
        "terminals": FieldSpec(float32, (agents,)),
        "truncations": FieldSpec(float32, (agents,)),
        "infos.state": FieldSpec(float32, (agents * features,)),
        "infos.legals": FieldSpec(float32, (agents, actions)),
    }
    sources = [{"trial_id": vault.trial_id, "uid": vault.uid, "kind": vault.kind, "episodes": len(of_vault)}
               for vault, of_vault in zip(vaults, found, strict=True)]  # fmt: skip
    with create(path, fields, 1, {"layout": "og-marl", "sources": sources, "config": vaults[0].config}) as new:
        for vault, of_vault in zip(vaults, found, strict=True):
            for part in _joined(vault, of_vault):
                new.append(part)


def _joined(vault: Vault, found: Sequence[Episode]) -> Iterator[Fields]:
    """Yield the episodes concatenated, several at a time."""
    waiting: list[Fields] = []
    steps = 0
    for episode in found:
        waiting.append(_transitions(vault, episode))
        steps += episode.length
        if steps >= 8192:
            yield {name: np.concatenate([part[name] for part in waiting], axis=1) for name in waiting[0]}
            waiting, steps = [], 0
    if waiting:
        yield {name: np.concatenate([part[name] for part in waiting], axis=1) for name in waiting[0]}


def _transitions(vault: Vault, episode: Episode) -> Fields:
    read = vault.read(CORE, slice(episode.start, episode.stop), [episode.env])
    view = read["observation"].astype(np.float32)
    ends = np.zeros(read["action"].shape, np.float32)
    ends[:, -1] = 1.0
    truncated = not episode.whole or _goes_on(vault, episode)
    nothing = np.zeros_like(ends)
    return {
        "observations": view,
        "actions": read["action"].astype(np.int32),
        "rewards": read["reward"].astype(np.float32),
        "terminals": nothing if truncated else ends,
        "truncations": ends if truncated else nothing,
        "infos.state": view.reshape(1, episode.length, -1),
        "infos.legals": read["legal_action_mask"].astype(np.float32),
    }


def _goes_on(vault: Vault, episode: Episode) -> bool:
    """Return whether only the time limit ended a whole episode: JaxParty's config says so, others by the length."""
    horizon = vault.config.get("env", {}).get("scenario", {}).get("task_config", {}).get("horizon")
    return horizon == "truncate" if horizon is not None else episode.length == vault.time_limit


def _task(vault: Vault) -> tuple[str, str]:
    if vault.metadata.get("stride"):
        raise VaultError(f"{vault.path}: holds every {vault.metadata['stride']} steps; transitions need all of them")
    env = vault.config.get("env", {})
    names = env.get("env_name"), env.get("scenario", {}).get("task_name")
    if None in names:
        raise VaultError(f"{vault.path}: its metadata name no environment and scenario; export it to Parquet")
    return str(names[0]), str(names[1])


def _tables(vault: Vault, names: Sequence[str]) -> Iterator[pa.Table]:
    number, t, whole = _in_episode(vault)
    agents = vault.num_agents
    for first, block in vault.blocks(names):
        rows, length = next(iter(block.values())).shape[:2]
        part = slice(first, first + length)
        size = (rows, length, agents)

        def column(values: NDArray[Any], size: tuple[int, ...] = size) -> NDArray[Any]:
            return np.broadcast_to(values, size).reshape(-1)

        columns: dict[str, Any] = {
            "trial_id": pa.array([vault.trial_id] * (rows * length * agents)).dictionary_encode(),
            "vault": pa.array([vault.uid] * (rows * length * agents)).dictionary_encode(),
            "env": column(np.arange(rows, dtype=np.int32)[:, None, None]),
            "step": column(np.arange(first, first + length, dtype=np.int64)[None, :, None]),
            "episode": column(number[:, part, None]),
            "t": column(t[:, part, None]),
            "whole": column(whole[:, part, None]),
            "agent": column(np.arange(agents, dtype=np.int16)[None, None, :]),
        }
        for name, values in block.items():
            columns[name] = _of_agents(values, agents)
        yield pa.table(columns)


def _of_agents(values: NDArray[Any], agents: int) -> Any:
    """Return (rows, steps, …) as a column with one row per agent; a field without an agent axis is repeated."""
    if values.ndim < 3 or values.shape[2] != agents:
        values = np.broadcast_to(values[:, :, None], (*values.shape[:2], agents, *values.shape[2:]))
    flat = values.reshape(-1, int(np.prod(values.shape[3:], dtype=int)))
    if values.ndim == 3:
        return pa.array(flat[:, 0])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def _in_episode(vault: Vault) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Return (rows, steps) arrays: the episode's number, the step in it, and whether it is whole."""
    number = np.full((vault.rows, vault.steps), -1, np.int32)
    t = np.full_like(number, -1)
    whole = np.zeros(number.shape, bool)
    counted = [0] * vault.rows
    for one in episodes(vault):
        number[one.env, one.start : one.stop] = counted[one.env]
        t[one.env, one.start : one.stop] = np.arange(one.length)
        whole[one.env, one.start : one.stop] = one.whole
        counted[one.env] += 1
    return number, t, whole


__all__ = ["export_og_marl", "export_parquet"]
