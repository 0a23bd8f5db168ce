"""Claims: how they are read, that an edit is named, and that the test of them holds its level."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from jax_party.errors import SweepError
from jax_party.judging import claim_tests
from jax_party.judging.claim_tests import Evidence, holm, judge, p_value, smallest_p
from jax_party.judging.claims import (
    NOT_CLAIMED,
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
from jax_party.judging.seeds import BLOCK, FIRST_FRESH_SEED, fresh_seeds

MANIFEST: dict[str, Any] = {
    "name": "demo", "algorithms": ["ff_ippo", "ff_mappo"], "num_trials": 8, "created": "2026-01-02", "pack": 1,
    "gpus_per_trial": None, "objective": {"metric": "episode_return", "mode": "max"},
    "space": {"system.actor_lr": {"type": "loguniform", "low": 1e-5, "high": 0.1}}, "seed": 0,
    "provenance": {"git_sha": "abc"},
}  # fmt: skip
CLAIMS = Claims((Claim("ff_mappo", ">", "ff_ippo", "equality", "p-base"),), 0.05, 20)


# -- Reading -----------------------------------------------------------------------------------------------------------


def test_claims_are_read_with_one_alpha_and_one_number_of_seeds() -> None:
    found = parse_claims("a > b on m in s, alpha=0.1; b<c on m-2 in p-5 , seeds = 12 ;")
    first, second = Claim("a", ">", "b", "m", "s"), Claim("b", "<", "c", "m-2", "p-5")
    assert found == Claims((first, second), 0.1, 12)
    assert first.text == "a > b on m in s" and "the mean of m over test seeds of a less that of b" in first.estimand
    assert parse_claims("a > b on m in s") == Claims((first,), 0.05, 20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "CLAIM: nothing is claimed; write for example CLAIM='ff_mappo > ff_ippo"),
        ("a >= b on m in s", "CLAIM: 'a >= b on m in s': expected A > B (or A < B) on METRIC in SCENARIO"),
        ("a is better than b", "CLAIM: 'a is better than b': expected A > B (or A < B) on METRIC in SCENARIO"),
        ("a > b on m in s; ; c > d on m in s", "CLAIM: '': expected A > B"),
        ("a > a on m in s", "CLAIM: a > a on m in s: names a twice"),
        ("a > b on m in s; a > b on m in s", "CLAIM: a > b on m in s: is listed twice"),
        ("a > b on m in s; b < a on m in s", "CLAIM: b < a on m in s: is listed twice (a > b on m in s)"),
        ("a > b on m in s; b > a on m in s", "CLAIM: b > a on m in s: is the opposite of a > b on m in s"),
        ("a > b on m in s; a < b on m in s", "CLAIM: a < b on m in s: is the opposite of a > b on m in s"),
        ("a > b on m in s, alpha=0", "alpha: expected a number above 0 and at most 0.5, got '0'"),
        ("a > b on m in s, alpha=0.51", "alpha: expected a number above 0 and at most 0.5, got '0.51'"),
        ("a > b on m in s, alpha=nan", "alpha: expected a number above 0 and at most 0.5, got 'nan'"),
        ("a > b on m in s, alpha=x", "alpha: expected a number above 0 and at most 0.5, got 'x'"),
        ("a > b on m in s, seeds=1", "seeds: expected a whole number from 2 to 10,000, got '1'"),
        ("a > b on m in s, seeds=2.5", "seeds: expected a whole number from 2 to 10,000, got '2.5'"),
        ("a > b on m in s, power=0.8", "'power=0.8': expected alpha=0.05 or seeds=20"),
        ("a > b on m in s, alpha=0.1; b > c on m in s, alpha=0.2", "alpha=0.2: another claim has 0.1"),
        ("a > b on m in s, seeds=2", "no outcome on so few seeds could support 1 claim at alpha=0.05 (the smallest p-"),
        ("a > b on m in s, alpha=1e-9", "take an alpha of at least 1e-05"),
    ],
)
def test_malformed_claims_are_refused(text: str, message: str) -> None:
    with pytest.raises(SweepError) as refused:
        parse_claims(text)
    assert str(refused.value).startswith("CLAIM: ") and message in str(refused.value)


def test_too_few_seeds_are_told_how_many_would_do() -> None:
    """By hand: 3 seeds each have 20 permutations, of which one is the most extreme, so p >= 0.05; 4 have 70."""
    assert smallest_p(3) == 1 / 20 and smallest_p(4) == 1 / 70
    assert parse_claims("a > b on m in s, seeds=3, alpha=0.05").seeds == 3
    with pytest.raises(SweepError, match=r"take seeds=4 or more"):
        parse_claims("a > b on m in s, seeds=3, alpha=0.04")


def test_a_metric_may_be_named_by_how_it_alone_begins() -> None:
    known = ["episode_return", "episode_length", "welfare_per_step", "equality", "equality_2"]
    assert resolve_metric(known, "welfare", "here") == "welfare_per_step"
    assert resolve_metric(known, "equality", "here") == "equality", "an exact name is never a beginning"
    with pytest.raises(SweepError, match=r"here: episode: may be each of episode_return, episode_length; name one"):
        resolve_metric(known, "episode", "here")
    with pytest.raises(SweepError, match=r"here: fun: no such metric; choose one of episode_return, "):
        resolve_metric(known, "fun", "here")


def test_test_seeds_are_a_sweeps_own_and_fit() -> None:
    firsts = [fresh_seeds(f"sweep-{number}").start for number in range(300)]
    assert len(set(firsts)) > 295 and firsts == [fresh_seeds(f"sweep-{number}").start for number in range(300)]
    assert all(first >= FIRST_FRESH_SEED and first % BLOCK == 0 and first + BLOCK <= 2**31 for first in firsts)


# -- Edits -------------------------------------------------------------------------------------------------------------


def claimed() -> tuple[dict[str, Any], dict[str, Any]]:
    """claim.yaml and sweep.yaml after a claim."""
    content = compose(CLAIMS, 1_000_010_000, MANIFEST, "2026-01-02")
    provenance = MANIFEST["provenance"] | {PROVENANCE_KEY: kept_in_provenance(content)}
    return copy.deepcopy(content), copy.deepcopy(MANIFEST | {"provenance": provenance})


def test_what_is_written_is_what_was_claimed() -> None:
    content, manifest = claimed()
    assert edit(content, manifest) is None
    assert claims_of(content) == CLAIMS
    assert set(content["sweep"]) == set(MANIFEST) - NOT_CLAIMED
    harmless = manifest | {"pack": 8, "created": "later", "gpus_per_trial": 0.5}
    harmless["provenance"] = manifest["provenance"] | {"host": "elsewhere"}
    assert edit(content, harmless) is None


def test_the_hash_is_of_all_that_was_claimed() -> None:
    def digest(manifest: dict[str, Any] = MANIFEST, **changes: Any) -> str:
        return str(compose(Claims(**{**vars(CLAIMS), **changes}), 7, manifest, "now")["sha256"])

    different = [
        digest(), digest(alpha=0.01), digest(seeds=21), digest(MANIFEST | {"seed": 1}),
        digest(claims=(Claim("ff_mappo", "<", "ff_ippo", "equality", "p-base"),)),
    ]  # fmt: skip
    assert len(set(different)) == len(different) and digest() == digest(MANIFEST | {"pack": 3})
    assert len(digest()) == 64


@pytest.mark.parametrize(
    ("file", "path", "value", "named"),
    [
        (0, ("alpha",), 0.1, "claim.yaml: alpha"),
        (0, ("seeds", "number"), 10, "claim.yaml: seeds.number"),
        (0, ("seeds", "first"), 10, "claim.yaml: seeds.first"),
        (0, ("test",), "another", "claim.yaml: test"),
        (0, ("claims", 0, "relation"), "<", "claim.yaml: claims.1"),
        (0, ("claims", 0, "estimand"), "something", "claim.yaml: claims.1"),
        (0, ("sweep", "num_trials"), 80, "claim.yaml: sweep.num_trials"),
        (0, ("sweep",), None, "claim.yaml: "),
        (0, ("extra",), 1, "claim.yaml: extra"),
        (0, ("sha256",), "0" * 64, "claim.yaml: sha256"),
        (1, ("num_trials",), 80, "sweep.yaml: num_trials"),
        (1, ("space", "system.actor_lr", "high"), 0.2, "sweep.yaml: space"),
        (1, ("objective", "mode"), "min", "sweep.yaml: objective"),
        (1, ("new",), 1, "sweep.yaml: new"),
        (1, ("provenance", "claim", "sha256"), "0" * 64, "sweep.yaml: provenance.claim.sha256"),
        (1, ("provenance", "claim"), None, "sweep.yaml: provenance.claim"),
    ],
)
def test_an_edit_of_one_file_is_named(file: int, path: tuple[Any, ...], value: Any, named: str) -> None:
    files = claimed()
    *way, last = path
    place: Any = files[file]
    for key in way:
        place = place[key]
    place[last] = value
    assert (edit(*files) or "").startswith(named)


def test_a_claim_that_is_hashed_anew_is_noticed_by_the_other_file() -> None:
    content, manifest = claimed()
    other = compose(Claims(CLAIMS.claims, 0.5, 20), 1_000_010_000, MANIFEST, "2026-01-02")
    assert edit(other, manifest) == "claim.yaml: alpha"
    assert edit(content, manifest) is None


# -- The test ----------------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.9: times 4, 3, 2, 1, and never less than the one before."""
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.4, 0.4, 0.4]) == [1.0, 1.0, 1.0]
    assert holm([]) == []


def test_holm_is_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for p_values in np.random.default_rng(0).random((50, 5)) ** 3:
        assert holm(list(p_values)) == pytest.approx(list(multitest.multipletests(p_values, method="holm")[1]))


def welch_t(x: list[float], y: list[float]) -> float:
    return float(stats.ttest_ind(x, y, equal_var=False).statistic)


@pytest.mark.parametrize("relation", [">", "<"])
def test_few_seeds_have_all_permutations(relation: str) -> None:
    """Against a plain enumeration of the 70 ways to share 8 values."""
    values = [3.1, 4.0, 2.2, 5.9, 2.0, 1.1, 3.0, 0.7]
    observed = welch_t(values[:4], values[4:])
    sign = 1 if relation == ">" else -1
    every = [
        sign * welch_t([values[i] for i in chosen], [v for i, v in enumerate(values) if i not in chosen])
        for chosen in itertools.combinations(range(8), 4)
    ]
    expected = sum(t >= sign * observed - 1e-9 for t in every) / 70
    assert p_value(Evidence(values[:4], values[4:], relation)) == pytest.approx(expected)


def test_clear_differences_are_supported_and_only_in_their_direction() -> None:
    generator = np.random.default_rng(0)
    a, b = list(generator.normal(2.0, 1.0, 20)), list(generator.normal(0.0, 1.0, 20))
    above, below = judge([Evidence(a, b, ">"), Evidence(a, b, "<")], 0.05)
    assert above.supported and above.p < 0.001 and above.adjusted == pytest.approx(2 * above.p)
    assert not below.supported and below.p > 0.99
    assert above.difference == pytest.approx(np.mean(a) - np.mean(b))
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (above.low, above.high) == pytest.approx((expected.low, expected.high))
    assert judge([Evidence(a, b, ">")], 0.05) == judge([Evidence(a, b, ">")], 0.05), "seeded"


def test_values_that_do_not_vary_are_judged_without_a_division_by_zero() -> None:
    equal, apart = judge([Evidence([1.0] * 6, [1.0] * 6, ">"), Evidence([2.0] * 6, [1.0] * 6, ">")], 0.05)
    assert (equal.p, equal.supported, equal.low, equal.high) == (1.0, False, 0.0, 0.0)
    assert apart.p == pytest.approx(1 / math.comb(12, 6)) and apart.supported


def test_a_claim_without_evidence_is_not_supported_and_makes_the_others_harder() -> None:
    a, b = [5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0, 4.0]
    alone = judge([Evidence(a, b, ">")], 0.02)
    assert alone[0].supported and alone[0].p == pytest.approx(1 / 70)
    absent, other = judge([None, Evidence(a, b, ">")], 0.02)
    assert (absent.difference, absent.p, absent.supported) == (None, 1.0, False)
    assert other.adjusted == pytest.approx(2 / 70) and not other.supported


# -- The level ---------------------------------------------------------------------------------------------------------

SWEEPS, ALPHA, SEEDS = 1_000, 0.05, 8
MOST_POSITIVE = int(stats.binom.ppf(0.999, SWEEPS, ALPHA))
"""Of 1,000 sweeps with an error of exactly 5 % no more are positive, but for one choice of random numbers in 1,000."""


def null_sweeps(configurations: tuple[int, ...], spread: float, skewed: bool) -> tuple[Any, Any, Any]:
    """Of the best configuration of each algorithm: the scores that chose it, those of its test, and its true mean.

    `configurations`: how many each algorithm has. `spread`: of their true means; with 0 every claim is wrong.
    """
    generator = np.random.default_rng(20_260_102)

    def noise(*shape: int) -> Any:
        return generator.exponential(1.0, shape) - 1.0 if skewed else generator.normal(size=shape)

    searched, tested, means = [], [], []
    for count in configurations:
        true = spread * generator.normal(size=(SWEEPS, count))
        search = true[:, :, None] + noise(SWEEPS, count, SEEDS)
        best = np.arange(SWEEPS), search.mean(axis=2).argmax(axis=1)
        means.append(true[best])
        searched.append(search[best])
        tested.append(true[best][:, None] + noise(SWEEPS, SEEDS))
    return searched, tested, means


def positives(scores: Any, means: Any, pairs: list[tuple[int, int]], adjust: Any = holm) -> int:
    """Sweeps in which some claim `a > b` is supported that is not true of the configurations that were chosen."""
    found = np.transpose([claim_tests.p_values(scores[a], scores[b], ">", resamples=999) for a, b in pairs])
    supported = np.array([adjust(list(of_sweep)) for of_sweep in found]) <= ALPHA
    wrong = np.transpose([means[a] <= means[b] for a, b in pairs])
    return int((supported & wrong).any(axis=1).sum())


PAIRS = [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("configurations", "spread", "skewed", "pairs"),
    [
        ((16, 2), 0.0, False, [(0, 1)]),
        ((16, 4, 2), 0.0, True, PAIRS),
        ((8, 8, 8), 0.5, False, [*PAIRS, (1, 0)]),
    ],
    ids=["one claim", "three claims, skewed", "four claims, some true"],
)
def test_at_most_one_null_sweep_in_twenty_has_a_positive_verdict(
    configurations: tuple[int, ...], spread: float, skewed: bool, pairs: list[tuple[int, int]]
) -> None:
    _, tested, means = null_sweeps(configurations, spread, skewed)
    assert positives(tested, means, pairs) <= MOST_POSITIVE


def test_the_level_holds_neither_on_the_seeds_that_chose_nor_without_holm() -> None:
    """What the test above can tell: both shortcuts are wrong far more often."""
    searched, _, means = null_sweeps((16, 2), 0.0, False)
    assert positives(searched, means, [(0, 1)]) > MOST_POSITIVE
    _, tested, means = null_sweeps((16, 4, 2), 0.0, True)
    assert positives(tested, means, PAIRS, adjust=list) > MOST_POSITIVE


def test_rows_are_tested_as_each_alone() -> None:
    _, tested, _ = null_sweeps((2, 2), 0.0, False)
    a, b = tested[0][:3], tested[1][:3]
    alone = [p_value(Evidence(x, y, "<"), 999) for x, y in zip(a, b, strict=True)]
    assert list(claim_tests.p_values(a, b, "<", 999)) == pytest.approx(alone, abs=0.05)
    exact = [p_value(Evidence(x[:5], y[:5], "<")) for x, y in zip(a, b, strict=True)]
    assert list(claim_tests.p_values(a[:, :5], b[:, :5], "<")) == pytest.approx(exact)
