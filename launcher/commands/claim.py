"""Claims made before a sweep runs, and the verdict on them after it has ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

import mava_configs
from jax_party.errors import ConfigError, RecordError, SweepError
from jax_party.judging.claim_tests import NOT_SUPPORTED, SUPPORTED, TEST, Evidence, Judgement, judge
from jax_party.judging.claims import (
    PROVENANCE_KEY,
    Claim,
    Claims,
    claims_of,
    compose,
    edit,
    kept_in_provenance,
    parse_claims,
    resolve_metric,
)
from jax_party.judging.seeds import fresh_seeds
from jax_party.store.files import write_json_atomically, write_yaml_atomically
from jax_party.trial.folder import CONFIG_FILE, holds_its_config, read_record, trial_folders
from jax_party.trial.judged import judge_trial
from jax_party.trial.manifest import (
    CLAIM_FILE,
    VERDICT_FILE,
    read_claim,
    read_manifest,
    read_sweep_file,
    read_verdict,
    write_manifest,
)
from jax_party.trial.metrics import read_metrics
from jax_party.trial.provenance import utc_timestamp
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.commands.winners import winners, write_promotions
from launcher.plan.study import Study
from launcher.show.console import plain, show_facts

if TYPE_CHECKING:
    from launcher.plan.sweep import Sweep

_WIDE = 10_000


# -- Claiming ----------------------------------------------------------------------------------------------------------


def read_claims(text: str, study: Study) -> Claims:
    """Parse claims, expand their names, and check them against the sweep that they are about.

    Raises:
      SweepError: the text is malformed, repeats a claim, or names an algorithm, scenario or metric that the sweep does
        not have.
    """
    asked = parse_claims(text)
    named = tuple(_named(claim, study) for claim in asked.claims)
    for number, claim in enumerate(named):
        if claim in named[:number]:
            raise SweepError(f"CLAIM: {claim.text}: is listed twice; leave one of them out")
    return dataclasses.replace(asked, claims=named)


def _named(claim: Claim, study: Study) -> Claim:
    place = f"CLAIM: {claim.text}"
    a, b = (_algorithm(name, study, place) for name in (claim.a, claim.b))
    if a == b:
        raise SweepError(f"{place}: both names are {a}'s; a claim is about two algorithms")
    scenarios = list(dict.fromkeys(base.scenario for base in study.bases))
    if claim.scenario not in scenarios:
        raise SweepError(
            f"{place}: {claim.scenario}: is no scenario of the sweep; add it to SCENARIO, or choose one of "
            f"{', '.join(scenarios)}"
        )
    bases = {base.algorithm: base for base in study.bases if base.scenario == claim.scenario}
    known = [set(study.engine.metrics(study.engine.parse(bases[name].config))) for name in (a, b)]
    first = study.engine.metrics(study.engine.parse(bases[a].config))
    metric = resolve_metric([name for name in first if name in known[1]], claim.metric, place)
    return Claim(a, claim.relation, b, metric, claim.scenario)


def _algorithm(name: str, study: Study, place: str) -> str:
    try:
        full = mava_configs.resolve_algorithm(name)
    except ConfigError:
        full = name
    if full not in study.algorithms:
        raise SweepError(
            f"{place}: {name}: is no algorithm of the sweep; add it to ALG, or choose one of "
            f"{', '.join(study.algorithms)}"
        )
    return full


def facts(claims: Claims, text: str) -> dict[str, str]:
    """Return what is claimed as name -> text, for the summary before anything is written."""
    asked = parse_claims(text).claims
    renamed = {one.metric: claim.metric for one, claim in zip(asked, claims.claims, strict=True)}
    notes = [f"{name} is {metric} here" for name, metric in renamed.items() if name != metric]
    found = {f"claim {number}": claim.text for number, claim in enumerate(claims.claims, start=1)}
    found |= {"alpha": f"{claims.alpha:g}", "test seeds": f"{claims.seeds} of each algorithm", "test": TEST}
    return found | ({"metric": "; ".join(notes)} if notes else {})


def write_claim(folder: Path, claims: Claims, console: Console) -> str:
    """Write claim.yaml beside the sweep's plan and its hash into the sweep's provenance, and print a summary.

    Returns:
      The SHA-256 of the claim.
    """
    manifest = read_manifest(folder)
    written = read_sweep_file(folder)
    content = compose(claims, fresh_seeds(manifest.name).start, written, utc_timestamp())
    provenance = {**manifest.provenance, PROVENANCE_KEY: kept_in_provenance(content)}
    write_yaml_atomically(folder / CLAIM_FILE, content)
    write_manifest(folder, dataclasses.replace(manifest, provenance=provenance))
    read_intact(folder)  # check that the claim can be read back intact
    digest = str(content["sha256"])
    show_facts(console, f"Claimed in {folder / CLAIM_FILE}", {
        "sha256": f"{digest} (publish it, to prove later what was claimed)",
        "test seeds": f"{content['seeds']['first']} and the {claims.seeds - 1} after it",
        "next": f"make resume SWEEP={folder}, then make verdict SWEEP={folder}",
    })  # fmt: skip
    return digest


# -- The verdict -------------------------------------------------------------------------------------------------------


def read_intact(folder: Path) -> dict[str, Any]:
    """Return the content of claim.yaml after checking that neither it nor its sweep was edited.

    Raises:
      SweepError: nothing was claimed, or something was edited; the message names the file, and the key if known.
    """
    try:
        found = read_claim(folder)
    except RecordError as error:
        raise SweepError(str(error)) from error
    if found is None:
        raise SweepError(f"{folder}: nothing was claimed before it ran; claim first: make claim SWEEP_ARGS=… CLAIM=…")
    edited = edit(*found)
    if edited is not None:
        raise SweepError(f"{folder}/{edited}: was edited since the claim; restore it, or claim again: make claim …")
    for trial in trial_folders(folder):
        if not holds_its_config(trial, read_record(trial)):
            raise SweepError(
                f"{trial / CONFIG_FILE}: was edited since the trial was made; restore it, or claim again: make claim …"
            )
    return found[0]


class Side(NamedTuple):
    """One algorithm of a claim, and its test results.

    Attributes:
      trial: the test of its best configuration; None if it has no configuration to test.
      values: the metric on each test seed; empty if any seed lacks it.
      reason: why `values` is empty; None if it is not.
    """

    trial: TrialRecord | None
    values: tuple[float, ...]
    reason: str | None


Tests = Mapping[tuple[str, str], TrialRecord]
"""(algorithm, scenario) -> the trial that runs the test seeds."""


def write_tests(sweep: Sweep, content: Mapping[str, Any]) -> Tests:
    """Create a PENDING test trial for the best configuration of each algorithm and scenario of the claims.

    Raises:
      SweepError: the search has not ended, none of its trials can be tested, or a verdict was already given on other
        winners.
    """
    claims = claims_of(content)
    wanted = {(name, claim.scenario) for claim in claims.claims for name in (claim.a, claim.b)}
    best = {(one.record.algorithm, one.record.scenario): one for one in reversed(winners(sweep, 1))}
    chosen = {key: best[key] for key in sorted(wanted & set(best))}
    _check_same_winners(sweep.folder, content, {key: one.record.trial_id for key, one in chosen.items()})
    first = int(content["seeds"]["first"])
    written = write_promotions(sweep, list(chosen.values()), range(first, first + claims.seeds))
    return dict(zip(chosen, written, strict=True))


def _check_same_winners(folder: Path, content: Mapping[str, Any], chosen: Mapping[tuple[str, str], str]) -> None:
    """Refuse to test other winners than an earlier verdict did: rerunning trials must not change the choice.

    Raises:
      SweepError: the best configuration of an algorithm has changed since the verdict.
    """
    before = read_verdict(folder)
    if before is None or before.get("claim_sha256") != content["sha256"]:
        return
    for claim, told in zip(claims_of(content).claims, before["claims"], strict=True):
        for side, name in (("a", claim.a), ("b", claim.b)):
            then, now = told[side]["promoted_from"], chosen.get((name, claim.scenario))
            if told["difference"] is not None and then != now:
                raise SweepError(
                    f"{folder / VERDICT_FILE}: claims.{side}: the verdict was given on {then}, and the best of {name} "
                    f"is now {now}; the search has changed since, and a verdict is given only once: claim again"
                )


def give_verdict(sweep: Sweep, content: Mapping[str, Any], tests: Tests) -> dict[str, Any]:
    """Test the claims on the results of the test seeds, and write verdict.json.

    Returns:
      The content of verdict.json. An existing verdict that would differ only in its date is kept.
    """
    claims = claims_of(content)
    sides = [(_side(sweep, one, one.a, tests), _side(sweep, one, one.b, tests)) for one in claims.claims]
    evidence = [
        Evidence(a.values, b.values, claim.relation) if a.values and b.values else None
        for claim, (a, b) in zip(claims.claims, sides, strict=True)
    ]
    judged = judge(evidence, claims.alpha)
    verdict = {
        "claim_sha256": content["sha256"],
        "given": utc_timestamp(),
        "alpha": claims.alpha,
        "seeds": content["seeds"],
        "test": content["test"],
        "claims": [
            _told(claim, a, b, judgement) for claim, (a, b), judgement in zip(claims.claims, sides, judged, strict=True)
        ],
    }
    before = read_verdict(sweep.folder)
    if before is not None and {**before, "given": None} == {**verdict, "given": None}:
        return before
    write_json_atomically(sweep.folder / VERDICT_FILE, verdict)
    return verdict


def _side(sweep: Sweep, claim: Claim, algorithm: str, tests: Tests) -> Side:
    planned = tests.get((algorithm, claim.scenario))
    if planned is None:
        return Side(None, (), f"{algorithm} has no configuration in {claim.scenario} that could be tested")
    folder = sweep.folder / planned.trial_id
    record = read_record(folder)
    if record.state is not State.COMPLETE:
        why = f" ({record.error})" if record.error else ""
        return Side(record, (), f"{record.trial_id}, the test of {algorithm}, is {record.state.value}{why}")
    found = judge_trial(record, read_metrics(folder))
    values = [] if found is None else found.values(claim.metric)
    if len(values) != record.num_seeds:
        return Side(record, (), f"{record.trial_id}, the test of {algorithm}, has no {claim.metric} for every seed")
    return Side(record, tuple(values), None)


def _told(claim: Claim, a: Side, b: Side, judgement: Judgement) -> dict[str, Any]:
    def side(name: str, one: Side) -> dict[str, Any]:
        ids = (None, None) if one.trial is None else (one.trial.trial_id, one.trial.promoted_from)
        return {"algorithm": name, "trial": ids[0], "promoted_from": ids[1], "values": list(one.values)}

    return {
        "text": claim.text,
        "verdict": SUPPORTED if judgement.supported else NOT_SUPPORTED,
        "reason": a.reason or b.reason,
        "difference": judgement.difference,
        "low": judgement.low,
        "high": judgement.high,
        "p": judgement.p,
        "p_holm": judgement.adjusted,
        "a": side(claim.a, a),
        "b": side(claim.b, b),
    }


def show_verdict(verdict: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print a verdict as a table."""
    table = Table(title=f"Verdict at alpha={verdict['alpha']:g}, family-wise", title_justify="left")
    for heading in ("claim", "difference [95 %]", "p", "p (Holm)", "verdict"):
        table.add_column(heading, overflow="fold")
    for one in verdict["claims"]:
        table.add_row(*map(Text, _cells(one)))
    wide = Console(width=_WIDE)
    width = wide.measure(table).maximum
    (console if console.is_terminal else Console(file=console.file, width=width)).print(table)
    plain(console, f"Given {verdict['given']} on claim sha256 {verdict['claim_sha256']}; {folder / VERDICT_FILE}")
    if any(one["verdict"] == NOT_SUPPORTED for one in verdict["claims"]):
        plain(console, '"Not supported" means that these seeds do not show the claim, not that it is false.')


def _cells(one: Mapping[str, Any]) -> Sequence[str]:
    if one["difference"] is None:
        return (one["text"], "", "", "", f"{one['verdict']}: {one['reason']}")
    interval = f"{one['difference']:.5g} [{one['low']:.5g}, {one['high']:.5g}]"
    return (one["text"], interval, f"{one['p']:.3g}", f"{one['p_holm']:.3g}", one["verdict"])


__all__ = [
    "NOT_SUPPORTED", "SUPPORTED", "facts", "give_verdict", "read_claims", "read_intact", "show_verdict", "write_claim",
    "write_tests",
]  # fmt: skip
