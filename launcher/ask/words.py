"""Read KEY=VALUE words, as `make` variables are written, into options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_party.errors import SweepError
from jax_party.judging.claims import FORM
from launcher.ask.choices import Batch, Duplicates, Sampler, Scheduler, Search
from launcher.ask.options import (
    EXTEND_HELP,
    HELP,
    PROMOTE_HELP,
    RERUN_HELP,
    RESUME_HELP,
    VERDICT_HELP,
    ExtendOptions,
    PromoteOptions,
    RerunOptions,
    ResumeOptions,
    SweepOptions,
)
from launcher.ask.values import (
    address_in,
    bounds_in,
    count_in,
    engine_in,
    flag_in,
    folder_in,
    member_in,
    names_in,
    out_in,
    pack_in,
    period_timeout_in,
    race_in,
    scenario_mode_in,
    seed_in,
    set_endpoint_in,
    share_in,
    sweep_name_in,
    watching_in,
    words_in,
)
from sweeps.checks import did_you_mean
from sweeps.objectives import check_aggregate, check_rule


def read_words(words: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """KEY=VALUE words as a dictionary; an empty value means the default and is left out.

    Raises:
      SweepError: a word without `=`, or an unknown key.
    """
    values: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise SweepError(f"{word}: expected KEY=VALUE (known: {', '.join(known)})")
        if key not in known:
            raise SweepError(
                f"{key}: unknown option{did_you_mean(key.upper(), tuple(known))} (known: {', '.join(known)})"
            )
        values[key] = value.strip()
    return {key: value for key, value in values.items() if value}


def parse_sweep_options(words: Sequence[str]) -> SweepOptions:
    """Options of a new sweep.

    Raises:
      SweepError: an unknown option, or a value that it cannot have.
    """
    values = read_words(words, HELP)
    set_endpoint_in(values)
    if "OUT" in values and "STORAGE" in values:
        raise SweepError(f"OUT={values['OUT']}: STORAGE says where sweep folders go; leave one of them out")
    if "ALG" not in values:
        raise SweepError("ALG: which algorithm? For example ALG=mappo; `list-algorithms` lists them")
    read: dict[str, Any] = {
        "algorithms": names_in(values, "ALG"),
        "engine": engine_in(values),
        "samples": count_in(values, "SAMPLES"),
        "scenarios": names_in(values, "SCENARIO"),
        "timesteps": count_in(values, "TIMESTEPS"),
        "evaluations": count_in(values, "EVALUATIONS"),
        "seed": seed_in(values),
        "seeds": count_in(values, "SEEDS"),
        "aggregate": check_aggregate(values["AGGREGATE"], "AGGREGATE") if "AGGREGATE" in values else None,
        "batch": member_in(values, "BATCH", Batch),
        "search": member_in(values, "SEARCH", Search),
        "sampler": member_in(values, "SAMPLER", Sampler),
        "duplicates": member_in(values, "DUPLICATES", Duplicates),
        "scheduler": member_in(values, "SCHEDULER", Scheduler),
        "scenario_mode": scenario_mode_in(values),
        "warm_start": names_in(values, "FROM"),
        "workers": count_in(values, "WORKERS"),
        "pack": pack_in(values),
        "devices_per_trial": count_in(values, "DEVICES_PER_TRIAL"),
        "gpus_per_trial": share_in(values, "GPUS_PER_TRIAL"),
        "budget": values.get("BUDGET"),
        "period_timeout": period_timeout_in(values),
        "name": sweep_name_in(values),
        "space": Path(values["SPACE"]) if "SPACE" in values else None,
        "metric": names_in(values, "METRIC"),
        "mode": tuple(values["MODE"].split(",")) if "MODE" in values else None,
        "at": check_rule(values["AT"], "AT") if "AT" in values else None,
        "constraints": bounds_in(values),
        "out": out_in(values),
        "storage": folder_in(values["STORAGE"], "STORAGE") if "STORAGE" in values else None,
        "address": address_in(values),
        "overrides": words_in(values, "OVERRIDES"),
        "watching": watching_in(values),
        "dry_run": flag_in(values, "DRY_RUN"),
    }
    return SweepOptions(**{key: value for key, value in read.items() if value is not None})


def parse_resume_options(words: Sequence[str]) -> ResumeOptions:
    """Options of `resume <folder>`.

    Raises:
      SweepError: no folder, an unknown option, or a value that it cannot have.
    """
    folder, values = _folder_and_values("resume", words, RESUME_HELP)
    return ResumeOptions(
        folder,
        count_in(values, "WORKERS"),
        pack_in(values),
        share_in(values, "GPUS_PER_TRIAL"),
        values.get("BUDGET"),
        flag_in(values, "RETRY_FAILED"),
        address_in(values),
        period_timeout_in(values),
        watching_in(values),
    )


def parse_extend_options(words: Sequence[str]) -> ExtendOptions:
    """Options of `extend <folder>`.

    Raises:
      SweepError: no folder, no SAMPLES, an unknown option, or a value that it cannot have.
    """
    folder, values = _folder_and_values("extend", words, EXTEND_HELP)
    samples = count_in(values, "SAMPLES")
    if samples is None:
        raise SweepError("SAMPLES: how many more configurations? For example SAMPLES=8")
    return ExtendOptions(
        ResumeOptions(
            folder,
            count_in(values, "WORKERS"),
            pack_in(values),
            share_in(values, "GPUS_PER_TRIAL"),
            values.get("BUDGET"),
            address=address_in(values),
            period_timeout=period_timeout_in(values),
            watching=watching_in(values),
        ),
        samples,
    )


def parse_promote_options(words: Sequence[str]) -> PromoteOptions:
    """Options of `promote <folder>`.

    Raises:
      SweepError: no folder, an unknown option, or a value that it cannot have.
    """
    folder, values = _folder_and_values("promote", words, PROMOTE_HELP)
    top = count_in(values, "TOP") or PromoteOptions.top
    seeds = count_in(values, "SEEDS") or PromoteOptions.seeds
    return PromoteOptions(
        folder,
        top,
        seeds,
        race_in(values, top, seeds),
        count_in(values, "WORKERS"),
        pack_in(values),
        share_in(values, "GPUS_PER_TRIAL"),
        address_in(values),
        period_timeout_in(values),
        watching_in(values),
    )


def parse_claim_options(words: Sequence[str]) -> tuple[SweepOptions, str]:
    """Options of the sweep that claims are made about, and the claims.

    Raises:
      SweepError: no CLAIM, an unknown option, or a value that it cannot have.
    """
    claims = [word.removeprefix("CLAIM=") for word in words if word.startswith("CLAIM=")]
    if len(claims) != 1:
        raise SweepError(f"CLAIM: expected it once, got it {len(claims)} times; for example CLAIM='{FORM}'")
    return parse_sweep_options([word for word in words if not word.startswith("CLAIM=")]), claims[0]


def parse_verdict_options(words: Sequence[str]) -> PromoteOptions:
    """Options of `verdict <folder>`; the claims say which seeds are played.

    Raises:
      SweepError: no folder, an unknown option, or a value that it cannot have.
    """
    folder, values = _folder_and_values("verdict", words, VERDICT_HELP)
    return PromoteOptions(
        folder,
        1,
        workers=count_in(values, "WORKERS"),
        pack=pack_in(values),
        gpus_per_trial=share_in(values, "GPUS_PER_TRIAL"),
        address=address_in(values),
        period_timeout=period_timeout_in(values),
        watching=watching_in(values),
    )


def parse_rerun_options(words: Sequence[str]) -> RerunOptions:
    """Options of `rerun <trial>`.

    Raises:
      SweepError: no trial, or an unknown option.
    """
    trials = [word for word in words if "=" not in word or Path(word).is_dir()]
    if len(trials) != 1:
        raise SweepError(f"rerun: expected one trial's id or folder, got {len(trials)}")
    values = read_words([word for word in words if word not in trials], RERUN_HELP)
    set_endpoint_in(values)
    return RerunOptions(trials[0], out_in(values) or RerunOptions.out)


def _folder_and_values(command: str, words: Sequence[str], known: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    folders = [word for word in words if "=" not in word or Path(word).is_dir()]
    if len(folders) != 1:
        raise SweepError(f"{command}: expected one sweep folder, got {len(folders)}")
    values = read_words([word for word in words if word not in folders], known)
    set_endpoint_in(values)
    return folder_in(folders[0], command), values
