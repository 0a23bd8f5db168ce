"""Claims made before a sweep runs, and the test that decides them; `docs/statistics.md` has the formulas.

A claim says that one algorithm's metric is above or below another's. It is about values: it does not assume that larger
values are better. The claim is stored in `claim.yaml` as one mapping. Its SHA-256 is also in the sweep's provenance,
with a digest of each of its parts, so that an edit of either file is detected and located."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from jax_party.errors import SweepError
from jax_party.judging.claim_tests import LEAST_SEEDS, PERMUTATIONS, SUPPORTED, TEST, Evidence, judge, smallest_p
from jax_party.judging.seeds import BLOCK

DEFAULT_ALPHA: Final = 0.05
DEFAULT_SEEDS: Final = 20
FORM: Final = "ff_mappo > ff_ippo on welfare in p-contest, alpha=0.05, seeds=20"
PROVENANCE_KEY: Final = "claim"
"""The key in sweep.yaml's provenance that holds the hash and the digests."""
NOT_CLAIMED: Final = frozenset({"created", "pack", "gpus_per_trial", "provenance"})
"""Keys of sweep.yaml that do not affect what a sweep finds."""
_CLAIM: Final = re.compile(
    r"(?P<a>[\w.-]+)\s*(?P<relation>[<>])\s*(?P<b>[\w.-]+)\s+on\s+(?P<metric>[\w.-]+)\s+in\s+(?P<scenario>[\w.-]+)"
)


@dataclass(frozen=True)
class Claim:
    """The claim that `a`'s metric is above (`>`) or below (`<`) that of `b` in a scenario."""

    a: str
    relation: str
    b: str
    metric: str
    scenario: str

    @property
    def text(self) -> str:
        """The claim as it is written."""
        return f"{self.a} {self.relation} {self.b} on {self.metric} in {self.scenario}"

    @property
    def upwards(self) -> Claim:
        """The same claim with `>`."""
        return self if self.relation == ">" else replace(self, a=self.b, relation=">", b=self.a)

    @property
    def opposite(self) -> Claim:
        """The claim in the other direction, with the same relation."""
        return replace(self, a=self.b, b=self.a)

    @property
    def estimand(self) -> str:
        """What the claim is about, in words."""
        return (
            f"the mean of {self.metric} over test seeds of {self.a} less that of {self.b} in {self.scenario}, each "
            "played by the algorithm's best configuration, chosen by the sweep's own objective on its search seeds"
        )


@dataclass(frozen=True)
class Claims:
    """Claims that are tested together.

    Attributes:
      claims: what is claimed.
      alpha: the accepted probability that any claim is supported although its null hypothesis is true.
      seeds: the number of test seeds per algorithm.
    """

    claims: tuple[Claim, ...]
    alpha: float = DEFAULT_ALPHA
    seeds: int = DEFAULT_SEEDS


def parse_claims(text: str) -> Claims:
    """Read claims separated by `;`, each as in `FORM`. Alpha and seeds apply to all claims, wherever they are given.

    Raises:
      SweepError: the text is malformed, or a number is out of range.
    """
    parts = [part.strip() for part in text.split(";")]
    if parts[-1] == "":
        parts.pop()
    if not parts:
        raise SweepError(f"CLAIM: nothing is claimed; write for example CLAIM='{FORM}'")
    settings: dict[str, float] = {}
    claims: list[Claim] = []
    for part in parts:
        words, *options = (word.strip() for word in part.split(","))
        claim = _parse_claim(words, part)
        for other in claims:
            if claim.upwards == other.upwards:
                raise SweepError(f"CLAIM: {claim.text}: is listed twice ({other.text}); leave one of them out")
            if claim.upwards == other.upwards.opposite:
                raise SweepError(f"CLAIM: {claim.text}: is the opposite of {other.text}; keep the one that you expect")
        claims.append(claim)
        for option in options:
            name, value = _parse_option(option, part)
            if settings.setdefault(name, value) != value:
                raise SweepError(
                    f"CLAIM: {part}: {name}={value:g}: another claim has {settings[name]:g}; claims tested "
                    f"together share one {name}"
                )
    found = Claims(tuple(claims), settings.get("alpha", DEFAULT_ALPHA), int(settings.get("seeds", DEFAULT_SEEDS)))
    _check_reachable(found)
    return found


def _parse_claim(words: str, part: str) -> Claim:
    match = _CLAIM.fullmatch(words)
    if match is None:
        raise SweepError(f"CLAIM: {part!r}: expected A > B (or A < B) on METRIC in SCENARIO, such as {FORM!r}")
    claim = Claim(**match.groupdict())
    if claim.a == claim.b:
        raise SweepError(f"CLAIM: {claim.text}: names {claim.a} twice; a claim is about two algorithms")
    return claim


def _parse_option(option: str, part: str) -> tuple[str, float]:
    name, separator, text = (word.strip() for word in option.partition("="))
    if not separator or name not in ("alpha", "seeds"):
        raise SweepError(f"CLAIM: {part}: {option!r}: expected alpha=0.05 or seeds=20")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if name == "alpha" and not 0.0 < value <= 0.5:
        raise SweepError(f"CLAIM: {part}: alpha: expected a number above 0 and at most 0.5, got {text!r}")
    if name == "seeds" and not (LEAST_SEEDS <= value <= BLOCK and value == int(value)):
        raise SweepError(f"CLAIM: {part}: seeds: expected a whole number from {LEAST_SEEDS} to {BLOCK:,}, got {text!r}")
    return name, value


def _check_reachable(claims: Claims) -> None:
    """Refuse claims that no outcome could support: the smallest p-value is above what Holm's correction requires."""
    needed = claims.alpha / len(claims.claims)
    if smallest_p(claims.seeds) > needed:
        least_alpha = len(claims.claims) / (PERMUTATIONS + 1)
        enough = next((n for n in range(LEAST_SEEDS, 100) if smallest_p(n) <= needed), None)
        remedy = f"take seeds={enough} or more" if enough else f"take an alpha of at least {least_alpha:g}"
        raise SweepError(
            f"CLAIM: seeds={claims.seeds}: no outcome on so few seeds could support {len(claims.claims)} "
            f"claim{'s' * (len(claims.claims) != 1)} at alpha={claims.alpha:g} (the smallest p-value is "
            f"{smallest_p(claims.seeds):.2g}); {remedy}"
        )


def resolve_metric(known: Sequence[str], name: str, place: str) -> str:
    """Return the metric of this name, or else the only one that starts with it: `welfare` is `welfare_per_step`.

    Raises:
      SweepError: there is none, or several metrics start with it.
    """
    if name in known:
        return name
    close = [metric for metric in known if metric.startswith(name)]
    if len(close) == 1:
        return close[0]
    if close:
        raise SweepError(f"{place}: {name}: may be each of {', '.join(close)}; name one")
    raise SweepError(f"{place}: {name}: no such metric; choose one of {', '.join(known)}")


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON: sorted keys, no spaces, floats by their shortest repr."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def compose(claims: Claims, first_seed: int, manifest: Mapping[str, Any], written: str) -> dict[str, Any]:
    """Return the content of claim.yaml.

    Args:
      claims: what is claimed.
      first_seed: the first of the test seeds.
      manifest: the content of sweep.yaml.
      written: when, in ISO 8601.
    """
    content = {
        "written": written,
        "alpha": claims.alpha,
        "seeds": {"first": first_seed, "number": claims.seeds},
        "test": TEST,
        "claims": [
            {"text": claim.text, "a": claim.a, "relation": claim.relation, "b": claim.b, "metric": claim.metric,
             "scenario": claim.scenario, "estimand": claim.estimand}
            for claim in claims.claims
        ],
        "sweep": {key: value for key, value in manifest.items() if key not in NOT_CLAIMED},
    }  # fmt: skip
    return {"sha256": fingerprint(content), **content}


def digests(content: Mapping[str, Any]) -> dict[str, str]:
    """Return part of claim.yaml, such as `alpha`, `claims.1` or `sweep.space` -> first 16 digits of its fingerprint."""
    parts: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            parts |= {f"{key}.{name}": part for name, part in value.items()}
        elif isinstance(value, list):
            parts |= {f"{key}.{number}": part for number, part in enumerate(value, start=1)}
        elif key != "sha256":
            parts[key] = value
    return {name: fingerprint(part)[:16] for name, part in parts.items()}


def kept_in_provenance(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the sweep's provenance keeps of claim.yaml."""
    return {"sha256": content["sha256"], "parts": digests(content)}


def edit(content: Mapping[str, Any], manifest: Mapping[str, Any]) -> str | None:
    """Return what was edited since the claim, as `file: key`; None if nothing was.

    Args:
      content: that of claim.yaml.
      manifest: that of sweep.yaml.
    """
    provenance = manifest.get("provenance")
    kept = provenance.get(PROVENANCE_KEY) if isinstance(provenance, Mapping) else None
    if not isinstance(kept, Mapping) or not isinstance(kept.get("parts"), Mapping):
        return f"sweep.yaml: provenance.{PROVENANCE_KEY}"
    now, then = _digests_or_nothing(content), kept["parts"]
    for name in sorted({*now, *then}):
        if now.get(name) != then.get(name):
            return f"claim.yaml: {name}"
    claimed = content["sweep"]
    for key in dict.fromkeys([*claimed, *(key for key in manifest if key not in NOT_CLAIMED)]):
        if key not in claimed or key not in manifest or fingerprint(claimed[key]) != fingerprint(manifest[key]):
            return f"sweep.yaml: {key}"
    own = fingerprint({key: value for key, value in content.items() if key != "sha256"})
    if content.get("sha256") != own:
        return "claim.yaml: sha256"
    return f"sweep.yaml: provenance.{PROVENANCE_KEY}.sha256" if kept.get("sha256") != own else None


def edit_of_verdict(verdict: Mapping[str, Any]) -> str | None:
    """Return the first part of a verdict.json that does not follow from the values of its seeds; None if all do.

    Args:
      verdict: the content of verdict.json.
    """
    told = verdict["claims"]
    evidence = [_evidence_of(one) for one in told]
    for number, (one, found) in enumerate(zip(told, judge(evidence, float(verdict["alpha"])), strict=True), start=1):
        names = {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p,
                 "p_holm": found.adjusted}  # fmt: skip
        for name, value in names.items():
            there = one.get(name)
            same = there is None if value is None else there is not None and math.isclose(there, value, rel_tol=1e-6)
            if not same:
                return f"claims.{number}.{name}"
        if (one["verdict"] == SUPPORTED) != found.supported:
            return f"claims.{number}.verdict"
    return None


def _evidence_of(told: Mapping[str, Any]) -> Evidence | None:
    a, b = told["a"]["values"], told["b"]["values"]
    match = _CLAIM.fullmatch(str(told["text"]))
    return Evidence(a, b, match["relation"]) if a and b and match is not None else None


def _digests_or_nothing(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests; none if an edit left values that JSON cannot hold, or no mapping of the sweep."""
    try:
        return digests(content) if isinstance(content.get("sweep"), Mapping) else {}
    except (TypeError, ValueError):
        return {}


def claims_of(content: Mapping[str, Any]) -> Claims:
    """Return the claims in an unedited claim.yaml."""
    names = ("a", "relation", "b", "metric", "scenario")
    claims = tuple(Claim(**{name: one[name] for name in names}) for one in content["claims"])
    return Claims(claims, float(content["alpha"]), int(content["seeds"]["number"]))
