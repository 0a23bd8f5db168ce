"""New vaults from existing ones: several merged, or one thinned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_party.errors import VaultError
from results.vaults.dataset import shared_fields
from results.vaults.episode_bounds import Episode, breaks, episodes, returns
from results.vaults.store import Fields, Vault, create

ALONG = ("auto", "time", "envs")


def merge(vaults: Sequence[Vault], to: str | Path, along: str = "auto") -> Vault:
    """Write the vaults into a new one, which keeps the fields that all of them have.

    Args:
      vaults: of one kind and one game.
      to: the new vault's folder.
      along: `time` concatenates them in time (they must have the same number of environments), `envs` puts them side by
        side (they must have the same number of steps); `auto` uses the first of these that fits.

    Raises:
      VaultError: they do not fit, or `to` already exists.
    """
    fields = shared_fields(vaults)
    _check_one_game(vaults)
    kinds = {vault.kind for vault in vaults}
    if len(kinds) > 1:
        raise VaultError(f"{vaults[0].path} and others are train and test vaults; choose one with KIND=train or test")
    strides = {vault.metadata.get("stride") for vault in vaults}
    if len(strides) > 1:
        raise VaultError(f"{vaults[0].path} and others were thinned to different steps; merge before thinning")
    by_time = _goes_by_time(vaults, along)
    starts = np.cumsum([0] + [vault.steps if by_time else vault.rows for vault in vaults]).tolist()
    sources = [
        _source(vault) | {("first_step" if by_time else "first_env"): start}
        for vault, start in zip(vaults, starts[:-1], strict=True)
    ]
    if by_time:
        at = [start + step for vault, start in zip(vaults, starts, strict=False) for step in (0, *breaks(vault))]
    else:
        at = sorted({step for vault in vaults for step in breaks(vault)})
    metadata = _metadata(vaults, sources, at[1:] if by_time else at)
    rows = vaults[0].rows if by_time else starts[-1]
    with create(to, fields, rows, metadata) as new:
        for block in _behind(vaults, list(fields)) if by_time else _beside(vaults, list(fields)):
            new.append(block)
    return Vault(to)


def _check_one_game(vaults: Sequence[Vault]) -> None:
    """Refuse vaults of different games: a new vault has one config, whose environment defines episodes and exports."""
    for vault in vaults[1:]:
        if vault.config.get("env") != vaults[0].config.get("env"):
            one, other = (f"{each.path} ({_game(each)})" for each in (vaults[0], vault))
            raise VaultError(
                f"{one} and {other}: are of different games; choose one, as by "
                f"QUERY='scenario == \"{_game(vaults[0])}\"', or by the config.env… columns that differ"
            )


def _game(vault: Vault) -> str:
    """Return the scenario's name."""
    return str(vault.config.get("env", {}).get("scenario", {}).get("task_name", "unknown"))


def thin(
    vault: Vault,
    to: str | Path,
    *,
    every: int = 1,
    envs: slice | Sequence[int] | None = None,
    best: int | None = None,
    worst: int | None = None,
) -> Vault:
    """Write a part of a vault into a new one.

    Args:
      vault: the vault to thin.
      to: the new vault's folder.
      every: keep every k-th step; `done` is then set if an episode began since the previous kept step.
      envs: keep these environments.
      best, worst: keep this many whole episodes with the highest, or lowest, return (mean over agents), the best or the
        worst first: one row per episode if all have the same length, otherwise all in one row.

    Raises:
      VaultError: nothing was requested, `best` or `worst` is combined with another option, or more episodes are
        requested than there are.
    """
    if (best is None) + (worst is None) < 2:
        if every != 1 or envs is not None or (best is not None and worst is not None):
            raise VaultError("best and worst: give one, without every and envs; thin twice for both")
        return _thin_to_episodes(vault, Path(to), best if best is not None else -int(worst or 0))
    if every < 1 or (every == 1 and envs is None):
        raise VaultError(f"every {every}: give a number of 2 or more, environments to keep, or best or worst")
    rows = len(vault.read(["done"], slice(0, 1), envs)["done"])
    stride = int(vault.metadata.get("stride") or 1) * every
    at = sorted({-(-step // every) for step in breaks(vault)})
    extra = {"stride": stride} if stride > 1 else {}
    metadata = _metadata([vault], [_source(vault) | {"every": every, "envs": _described(envs)}], at) | extra
    with create(to, vault.fields, rows, metadata) as new:
        pending = np.zeros(rows, bool)
        for first, block in vault.blocks():
            part = {name: values[_rows(envs)] for name, values in block.items()}
            kept = np.arange(-first % every, part["done"].shape[1], every)
            done, pending = _done_since(part["done"], kept, pending)
            if len(kept):
                new.append({name: values[:, kept] for name, values in part.items()} | {"done": done})
    return Vault(to)


def _thin_to_episodes(vault: Vault, to: Path, number: int) -> Vault:
    """Write the best `number` episodes, or the worst if it is negative."""
    whole = [episode for episode in episodes(vault) if episode.whole]
    wanted = abs(number)
    if not whole:
        raise VaultError(
            f"{vault.path}: no whole episode in {vault.steps:,} steps (an episode takes {vault.time_limit or 'more'}); "
            "record test episodes with vault=both, or more steps"
        )
    if not 1 <= wanted <= len(whole):
        raise VaultError(f"{vault.path}: {wanted} episodes: it has {len(whole)} whole ones; ask for 1 to {len(whole)}")
    scores = returns(vault, whole).mean(axis=1)
    order = np.argsort(-scores if number > 0 else scores, kind="stable")[:wanted]
    chosen = [whole[place] for place in order]
    sources = [
        _source(vault) | {"env": one.env, "start": one.start, "stop": one.stop, "return": float(scores[place])}
        for one, place in zip(chosen, order, strict=True)
    ]
    side_by_side = len({one.length for one in chosen}) == 1
    metadata = _metadata([vault], sources, []) | {"kind": "train", "whole": True}
    parts = [_episode(vault, one) for one in chosen]
    with create(to, vault.fields, len(chosen) if side_by_side else 1, metadata) as new:
        if side_by_side:
            new.append({name: np.concatenate([part[name] for part in parts]) for name in vault.fields})
        else:
            for part in parts:
                new.append(part)
    return Vault(to)


def _episode(vault: Vault, episode: Episode) -> Fields:
    return vault.read(time=slice(episode.start, episode.stop), envs=[episode.env])


def _goes_by_time(vaults: Sequence[Vault], along: str) -> bool:
    if along not in ALONG:
        raise VaultError(f"along {along!r}: no such axis; use {', '.join(ALONG)}")
    rows, steps = {vault.rows for vault in vaults}, {vault.steps for vault in vaults}
    if along != "envs" and len(rows) == 1:
        return True
    if along != "time" and len(steps) == 1:
        return False
    raise VaultError(
        f"{vaults[0].path} and others have {_numbers(rows)} environments and {_numbers(steps)} steps: they cannot "
        f"be joined as requested (along={along}); thin them to as many environments first"
    )


def _behind(vaults: Sequence[Vault], fields: Sequence[str]) -> Iterator[Fields]:
    for vault in vaults:
        for _, block in vault.blocks(fields):
            yield block


def _beside(vaults: Sequence[Vault], fields: Sequence[str]) -> Iterator[Fields]:
    for first, block in vaults[0].blocks(fields):
        time = slice(first, first + next(iter(block.values())).shape[1])
        others = [vault.read(fields, time) for vault in vaults[1:]]
        yield {name: np.concatenate([part[name] for part in (block, *others)]) for name in fields}


def _done_since(done: Any, kept: Any, pending: Any) -> tuple[Any, Any]:
    """Return `done` of the kept steps, each including the skipped steps before it, and the flags after the last one."""
    columns = []
    last = 0
    for step in kept.tolist():
        columns.append(pending | done[:, last : step + 1].any(axis=1))
        pending, last = np.zeros_like(pending), step + 1
    pending = pending | done[:, last:].any(axis=1)
    return (np.stack(columns, axis=1) if columns else done[:, :0]), pending


def _rows(envs: slice | Sequence[int] | None) -> slice | list[int]:
    return slice(None) if envs is None else envs if isinstance(envs, slice) else list(envs)


def _described(envs: slice | Sequence[int] | None) -> Any:
    return [envs.start, envs.stop] if isinstance(envs, slice) else None if envs is None else list(envs)


def _source(vault: Vault) -> dict[str, Any]:
    return {
        "trial_id": vault.trial_id, "uid": vault.uid, "kind": vault.kind, "seed": vault.metadata.get("seed"),
        "rows": vault.rows, "steps": vault.steps,
    }  # fmt: skip


def _metadata(vaults: Sequence[Vault], sources: list[dict[str, Any]], at: list[int]) -> dict[str, Any]:
    """Return the new vault's metadata. The first vault's config stands for all: vaults that fit have the same game."""
    first = vaults[0]
    stride = {"stride": first.metadata["stride"]} if first.metadata.get("stride") else {}
    of_trials = {vault.trial_id for vault in vaults}
    trial = {"trial_id": first.trial_id} if len(of_trials) == 1 else {}
    return trial | stride | {"kind": first.kind, "config": first.config, "sources": sources, "breaks": at}


def _numbers(numbers: set[int]) -> str:
    return " and ".join(str(number) for number in sorted(numbers))


__all__ = ["merge", "thin"]
