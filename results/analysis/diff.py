"""What differs between two trials, or two sweeps; `python -m results.diff A B` prints it.

A trial cannot be compared with a sweep: a sweep has a best trial for each algorithm and scenario, and `make index`
lists them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from rich.console import Console

from jax_party.cli.arguments import BAD_INPUT, OneLineParser, print_error
from jax_party.errors import JaxPartyError, RecordError
from jax_party.judging.aggregate import Aggregate
from jax_party.judging.claim_tests import welch_interval
from jax_party.store.files import plain_value
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.folder import read_config, read_record
from jax_party.trial.judged import judge_trial
from jax_party.trial.lookup import find_trials
from jax_party.trial.manifest import MANIFEST_FILE, SweepManifest, read_manifest
from jax_party.trial.metrics import read_metrics
from jax_party.trial.record import RECORD_FILE, TrialRecord
from results.analysis.comparison import compare
from results.collector.configs import leaves_of
from results.printing import print_table
from results.tables import DEFAULT_ROOT, load_index

ABSENT: Final = "(absent)"
"""The placeholder for a key that one side does not have."""
DIFFERENCE_COLUMNS: Final = ("part", "name", "a", "b")
SEED_COLUMNS: Final = ("seed", "a", "b", "difference")
_VARIABLES: Final = {"a": "A", "b": "B", "--root": "OUT"}
_NORMAL: Final = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""
_NOT_SETTINGS: Final = ("name", "created", "provenance", "objective")
_OF_SCORES: Final = (
    "scenario", "algorithm_a", "algorithm_b", "configuration_a", "configuration_b", "metric", "at_a", "at_b", "seeds",
    "n_a", "value_a",
    "n_b", "value_b", "difference", "difference_low", "difference_high",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A comparison of two trials, or of two sweeps.

    Attributes:
      kind: `trials` or `sweeps`.
      a, b: their names.
      differences: the values that differ, with the columns `DIFFERENCE_COLUMNS`; `part` is hyperparameters, settings,
        objective, trial, code, versions or machine. Values are as in JSON, with lists as JSON text.
      scores: for trials one row with `metric`, `estimator` (the mean, whatever their aggregate), `n_a`, `value_a`,
        `n_b`, `value_b`, `difference` (b minus a), `difference_low`, `difference_high` and `interval`: `paired t`,
        `Welch t`, or with a single seed `episodes alone`, the noise of the evaluations without that of seeds (`none` if
        that is unknown). For sweeps the table of `results.compare`.
      seeds: for trials the score of each seed, with the columns `SEED_COLUMNS`; for sweeps no rows.
      note: why the scores are not compared, or a caveat about the comparison; None if there is neither.
    """

    kind: str
    a: str
    b: str
    differences: pd.DataFrame
    scores: pd.DataFrame
    seeds: pd.DataFrame
    note: str | None


def differences(a: str | Path, b: str | Path, root: str | Path = DEFAULT_ROOT) -> Difference:
    """Return what differs between two trials, or two sweeps.

    Args:
      a, b: each a sweep's folder, a trial's folder (s3://… too), or a trial's id.
      root: the folder of experiments in which ids are looked up.

    Raises:
      RecordError: there is no such trial or sweep, one is a trial and the other a sweep, or one cannot be read.
    """
    (folder_a, sweep_a), (folder_b, sweep_b) = (_find(str(one), name, Path(root)) for one, name in ((a, "A"), (b, "B")))
    if sweep_a != sweep_b:
        sweep, trial = ("A", "B") if sweep_a else ("B", "A")
        folder = folder_a if sweep_a else folder_b
        raise RecordError(
            f"{trial}: is a trial, and {sweep} a sweep; name one of its trials, as make index SWEEP={folder} lists them"
        )
    return _of_sweeps(folder_a, folder_b) if sweep_a else _of_trials(folder_a, folder_b)


def _find(given: str, name: str, root: Path) -> tuple[Path, bool]:
    """Return the folder of a trial or sweep, and whether it is a sweep's."""
    folder = as_folder(given)
    store = store_of(folder)
    store.check(folder)
    if store.is_file(folder / MANIFEST_FILE):
        return folder, True
    if store.is_file(folder / RECORD_FILE):
        return folder, False
    found = find_trials(given, root)
    if len(found) == 1:
        return found[0], False
    if found:
        raise RecordError(f"{name}={given}: there are {len(found)} trials of that id; give the path of one: {found[0]}")
    if store.on_disk(folder) is None:
        raise RecordError(f"{name}={given}: there is neither a trial nor a sweep there")
    raise RecordError(f"{name}={given}: no such trial or sweep, nor a trial of that id under {root}; give its folder")


# -- Trials ------------------------------------------------------------------------------------------------------------


def _of_trials(folder_a: Path, folder_b: Path) -> Difference:
    a, b = (read_record(folder) for folder in (folder_a, folder_b))
    parts_a, parts_b = (_parts_of_trial(*one) for one in ((folder_a, a), (folder_b, b)))
    note = None
    scores_a, scores_b = (_scores(*one) for one in ((folder_a, a), (folder_b, b)))
    rules_a, rules_b = (f"{one.metric} ({one.mode}) at {one.at}" for one in (a.objective, b.objective))
    if rules_a != rules_b:
        note = f"A is judged by {rules_a}, B by {rules_b}"
    elif not scores_a or not scores_b:
        name, record = ("A", a) if not scores_a else ("B", b)
        note = f"{name} has no score of every seed ({record.state.value})"
    compared = note is None
    errors = [_evaluation_error(*one) for one in ((folder_a, a), (folder_b, b))]
    return Difference(
        "trials", a.trial_id, b.trial_id, _differing(parts_a, parts_b),
        _trial_scores(a.objective.metric, scores_a, scores_b, errors) if compared else pd.DataFrame(),
        _seed_table(scores_a, scores_b, compared), note,
    )  # fmt: skip


_Parts = Mapping[str, Mapping[str, Any]]


def _parts_of_trial(folder: Path, record: TrialRecord) -> _Parts:
    hyperparameters = _flat(record.hyperparameters)
    config = {key.removeprefix("config."): value for key, value in leaves_of(read_config(folder)).items()}
    return {
        "hyperparameters": hyperparameters,
        "settings": {key: value for key, value in config.items() if key not in hyperparameters},
        "objective": _flat(dataclasses.asdict(record.objective)),
        "trial": {
            "algorithm": record.algorithm, "environment": record.environment, "scenario": record.scenario,
            "engine": record.engine, "seed": record.seed, "num_seeds": record.num_seeds, "state": record.state.value,
            "total_steps": record.total_steps, "env_steps": record.env_steps, "promoted_from": record.promoted_from,
        },
        "code": {
            "git_sha": record.git_sha, "git_dirty": record.git_dirty, "engine_version": record.engine_version,
            "compile_signature": record.compile_signature,
        },
        "versions": dict(record.versions),
        "machine": {"host": record.host, "device": record.device, "batch": record.batch},
    }  # fmt: skip


def _scores(folder: Path, record: TrialRecord) -> dict[int, float]:
    """Return seed -> score; empty if any seed has none."""
    found = judge_trial(record, read_metrics(folder))
    values = [] if found is None else found.values(record.objective.metric)
    return {record.seed + index: value for index, value in enumerate(values)}


def _evaluation_error(folder: Path, record: TrialRecord) -> float:
    """Return the standard error of the score due to the number of episodes; NaN if unknown."""
    found = judge_trial(record, read_metrics(folder))
    return math.nan if found is None or found.se is None else found.se


def _trial_scores(metric: str, a: Mapping[int, float], b: Mapping[int, float], errors: Sequence[float]) -> pd.DataFrame:
    """Return the row of scores. If the two share at least half of the larger one's seeds, only those count, paired."""
    common = [seed for seed in a if seed in b]
    paired = len(common) > 1 and 2 * len(common) >= max(len(a), len(b))
    x, y = ([one[seed] for seed in common] if paired else list(one.values()) for one in (a, b))
    row: dict[str, Any] = {"metric": metric, "estimator": Aggregate.MEAN.value}
    for name, values in (("a", x), ("b", y)):
        row |= {f"n_{name}": len(values), f"value_{name}": math.fsum(values) / len(values)}
    low = high = math.nan
    kind = "none"
    if min(len(x), len(y)) > 1:
        kind = "paired t" if paired else "Welch t"
        low, high = _paired_interval(x, y) if paired else welch_interval(y, x)[1:]
    elif not math.isnan(error := math.hypot(*errors)):
        kind = "episodes alone"
        half = _NORMAL * error
        low, high = row["value_b"] - row["value_a"] - half, row["value_b"] - row["value_a"] + half
    row |= {"difference": row["value_b"] - row["value_a"], "difference_low": low, "difference_high": high}
    return pd.DataFrame([{**row, "interval": kind}])


def _paired_interval(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of Student's t for the differences per seed, y minus x."""
    from scipy import stats

    gaps = np.subtract(y, x)
    half = float(stats.t.ppf(0.975, len(gaps) - 1)) * float(stats.sem(gaps))
    return float(gaps.mean()) - half, float(gaps.mean()) + half


def _seed_table(a: Mapping[int, float], b: Mapping[int, float], compared: bool) -> pd.DataFrame:
    rows = [
        (seed, a.get(seed, math.nan), b.get(seed, math.nan),
         b[seed] - a[seed] if compared and seed in a and seed in b else math.nan)
        for seed in sorted({*a, *b})
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(SEED_COLUMNS))


# -- Sweeps ------------------------------------------------------------------------------------------------------------


def _of_sweeps(folder_a: Path, folder_b: Path) -> Difference:
    a, b = (read_manifest(folder) for folder in (folder_a, folder_b))
    note, scores = None, pd.DataFrame()
    try:
        scores = compare(folder_a, folder_b)
    except RecordError as error:
        note = " ".join(str(error).split())
    parts_a, parts_b = (_parts_of_sweep(*one) for one in ((folder_a, a), (folder_b, b)))
    nothing = pd.DataFrame(columns=list(SEED_COLUMNS))
    if note is None and a.objective.at != b.objective.at:
        note = f"A is judged by {a.objective.at}, B by {b.objective.at}: their difference is one of rules, too"
    return Difference("sweeps", a.name, b.name, _differing(parts_a, parts_b), scores, nothing, note)


def _parts_of_sweep(folder: Path, manifest: SweepManifest) -> _Parts:
    values = dataclasses.asdict(manifest)
    known = manifest.provenance
    return {
        "settings": _flat({key: value for key, value in values.items() if key not in _NOT_SETTINGS}),
        "objective": _flat(values["objective"]),
        "code": {key: known.get(key) for key in ("git_sha", "git_dirty")},
        "versions": dict(known.get("versions") or {}),
        "machine": {key: known.get(key) for key in ("host", "python", "platform")} | _devices(folder),
    }


def _devices(folder: Path) -> dict[str, str]:
    """Return the devices of the sweep's trials, from its index; nothing if there is no index yet."""
    try:
        devices = load_index(folder)["device"].dropna().unique()
    except (RecordError, KeyError):
        return {}
    return {"devices": ", ".join(sorted(devices))}


# -- Values ------------------------------------------------------------------------------------------------------------


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted key -> a scalar, or a list as JSON text."""
    return {key.removeprefix("value."): one for key, one in leaves_of(plain_value(value, "value"), "value").items()}


def _differing(a: _Parts, b: _Parts) -> pd.DataFrame:
    rows = [
        (part, name, a[part].get(name, ABSENT), b[part].get(name, ABSENT))
        for part in a
        for name in sorted({*a[part], *b[part]})
        if not _same(a[part].get(name, ABSENT), b[part].get(name, ABSENT))
    ]
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS), dtype=object)


def _same(a: Any, b: Any) -> bool:
    """Return whether two values are equal: 1 equals 1.0 but not true, and NaN equals NaN."""
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


# -- The command line --------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if the two cannot be compared."""
    parser = OneLineParser(
        "python -m results.diff",
        description="Print the differences between two trials or sweeps.",
        variables=_VARIABLES,
    )
    parser.add_argument("a", help="a sweep's folder, a trial's folder (s3://… too), or a trial's id")
    parser.add_argument("b", help="the other one")
    parser.add_argument(
        "--root", type=Path, default=Path(DEFAULT_ROOT), help=f"folder to search for ids ({DEFAULT_ROOT})"
    )
    options = parser.parse_args(arguments)
    try:
        found = differences(options.a, options.b, options.root)
    except (JaxPartyError, OSError) as error:
        print_error(error)
        return BAD_INPUT
    _print(found)
    return 0


def _print(found: Difference) -> None:
    title = f"What differs between the {found.kind} A = {found.a} and B = {found.b}"
    rows = [[part, name, _text(a), _text(b)] for part, name, a, b in found.differences.itertuples(index=False)]
    print_table(
        ("part", "name", "A", "B"), rows or [["nothing", "", "", ""]], left=("part", "name"), spare=(), title=title
    )
    if found.note is not None:
        say = Console(soft_wrap=True)
        beware = "Beware" if len(found.scores) else "Scores are not compared"
        say.print(f"{beware}: {found.note}", markup=False, highlight=False)
    if len(found.seeds):
        rows = [[_text(value) for value in row] for row in found.seeds.itertuples(index=False)]
        print_table(("seed", "A", "B", "B - A"), rows, left=(), spare=(), title="Score of each seed")
    if len(found.scores):
        headings, rows = _score_rows(found.scores)
        print_table(headings, rows, left=("metric", "scenario"), spare=(), title="Scores, and their difference B - A")


def _score_rows(scores: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the columns of the scores that the table shows, with each interval in one cell."""
    names = [name for name in _OF_SCORES if name in scores and not name.startswith("difference_")]
    kind = "interval" if "interval" in scores else "estimator"
    rows = [[*(_text(row[name]) for name in names), *_interval(row, kind)] for row in scores.to_dict("records")]
    return [*(name.replace("_", " ") for name in names), "95 %", kind], rows


def _interval(row: Mapping[Any, Any], kind: str) -> Iterator[str]:
    low, high = row["difference_low"], row["difference_high"]
    yield "" if pd.isna(low) else f"[{low:.5g}, {high:.5g}]"
    yield str(row[kind])


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (float, np.floating)):
        return "" if math.isnan(value) else f"{value:.8g}"
    return str(value)
