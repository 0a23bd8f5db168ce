"""Recreate a study from a sweep's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jax_party.engines import get_engine
from jax_party.trial.manifest import MANIFEST_FILE, SweepManifest
from launcher.ask.choices import Duplicates, Sampler, Scheduler, Search
from launcher.plan.combinations import default_sampler
from launcher.plan.compose import compose_bases
from launcher.plan.study import SCENARIO_KEY, Study
from sweeps.space import (
    parse_spec,
)


def study_from_manifest(folder: Path, manifest: SweepManifest) -> Study:
    """Return the study that a sweep folder was created from.

    Raises:
      SweepError, ConfigError: its space or settings no longer fit the trainer.
    """
    overrides = dict(manifest.overrides or {})
    scenarios = tuple(overrides.pop(SCENARIO_KEY, ()))
    raw = {
        "algorithms": list(manifest.algorithms),
        "objective": {
            "metric": list(manifest.objective.metrics),
            "mode": list(manifest.objective.modes),
            "aggregate": manifest.objective.aggregate,
            "constraints": manifest.objective.constraints,
        },
        "scenarios": ["from-manifest"],
        "scenario_mode": manifest.scenario_mode,
        "budget": {"total_timesteps": 1, "num_evaluation": 1},
        "overrides": overrides,
        "space": manifest.space,
    }
    spec = dataclasses.replace(
        parse_spec(raw, str(folder / MANIFEST_FILE)), scenarios=scenarios, objective=manifest.objective
    )
    algorithms = tuple(manifest.algorithms)
    engine = get_engine(manifest.engine)
    engine.check()
    bases = tuple(base for algorithm in algorithms for base in compose_bases(algorithm, spec, engine))
    search = Search(manifest.search)
    return Study(
        manifest.name,
        engine,
        algorithms,
        spec,
        manifest.seed,
        search,
        Sampler(manifest.sampler) if manifest.sampler else default_sampler(search, 1),
        Scheduler(manifest.scheduler),
        bases,
        manifest.warm_start,
        Duplicates(manifest.duplicates),
    )
