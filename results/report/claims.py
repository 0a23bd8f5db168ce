"""The section on claims made before the sweep ran: their text, whether they are intact, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_party.errors import RecordError
from jax_party.judging.claims import edit, edit_of_verdict
from jax_party.trial.folder import CONFIG_FILE, holds_its_config, read_record, trial_folders
from jax_party.trial.manifest import VERDICT_FILE, read_claim, read_verdict
from results.report.data import SweepData
from results.report.theme import number


def claims(data: SweepData) -> dict[str, Any] | None:
    """Return what the template needs; None if nothing was claimed.

    `problem` says what was edited or cannot be read; verdicts are then not shown.
    """
    if data.manifest is None:
        return None
    try:
        found = read_claim(data.folder)
        if found is None:
            return None
        content = found[0]
        edited = edit(*found)
        verdict = read_verdict(data.folder)
        changed = [trial for trial in trial_folders(data.folder) if not _holds_its_config(trial)]
    except RecordError as error:
        return {"problem": str(error), "sha256": None, "rows": []}
    if edited is not None:
        return {"problem": f"{edited}: was edited since the claim", "sha256": None, "rows": []}
    if changed:
        place = f"{changed[0].name}/{CONFIG_FILE}"
        return {"problem": f"{place}: was edited since the trial was made", "sha256": None, "rows": []}
    if verdict is not None and (part := edit_of_verdict(verdict)) is not None:
        problem = f"{VERDICT_FILE}: {part}: is not what its seeds give; give it anew: make verdict"
        return {"problem": problem, "sha256": None, "rows": []}
    given = verdict if verdict is not None and verdict.get("claim_sha256") == content["sha256"] else None
    told: list[Mapping[str, Any]] = [{}] * len(content["claims"]) if given is None else given["claims"]
    return {
        "problem": None,
        "sha256": content["sha256"],
        "written": content["written"],
        "alpha": content["alpha"],
        "seeds": content["seeds"],
        "test": content["test"],
        "given": None if given is None else given["given"],
        "rows": [_row(claim, one) for claim, one in zip(content["claims"], told, strict=True)],
    }


def _holds_its_config(trial: Path) -> bool:
    try:
        return holds_its_config(trial, read_record(trial))
    except RecordError:
        return True  # another section reports it


def _row(claim: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, str]:
    row = {"text": claim["text"], "estimand": claim["estimand"], "difference": "", "p": "", "p_holm": ""}
    if told.get("difference") is not None:
        interval = f"[{number(told['low'])}, {number(told['high'])}]"
        row |= {"difference": f"{number(told['difference'])} {interval}"}
        row |= {name: number(told[name], 3) for name in ("p", "p_holm")}
    reason = f": {told['reason']}" if told.get("reason") else ""
    return row | {"verdict": f"{told['verdict']}{reason}" if told else "none yet"}


__all__ = ["claims"]
