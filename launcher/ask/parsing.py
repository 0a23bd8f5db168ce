"""Parse KEY=VALUE words, in the form of `make` variables, into a verb's options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jax_party.errors import SweepError
from jax_party.judging.claims import FORM
from launcher.ask.options import fields_in, options_of
from launcher.ask.requested import ExtendOptions, PromoteOptions, RerunOptions, ResumeOptions, SweepOptions
from launcher.ask.values import folder_in, set_endpoint_in
from sweeps.checks import did_you_mean


def read_words(words: Sequence[str], verb: str) -> dict[str, str]:
    """Return KEY=VALUE words as a dictionary; an empty value means the default and is left out.

    Also sets the S3 endpoint of this process if `STORAGE_ENDPOINT` is given.

    Raises:
      SweepError: a word has no `=`, the verb does not take an option, or `STORAGE_ENDPOINT` is malformed.
    """
    known = tuple(option.name for option in options_of(verb))
    values: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise SweepError(f"{word}: expected KEY=VALUE (known: {', '.join(known)})")
        if key not in known:
            raise SweepError(f"{key}: unknown option{did_you_mean(key.upper(), known)} (known: {', '.join(known)})")
        values[key] = value.strip()
    values = {key: value for key, value in values.items() if value}
    set_endpoint_in(values)
    return values


def parse_sweep_options(words: Sequence[str]) -> SweepOptions:
    """Parse the options of a new sweep.

    Raises:
      SweepError: an option is unknown, missing, or has an invalid value.
    """
    values = read_words(words, "sweep")
    if "OUT" in values and "STORAGE" in values:
        raise SweepError(f"OUT={values['OUT']}: STORAGE says where sweep folders go; leave one of them out")
    if "ALG" not in values:
        raise SweepError("ALG: which algorithm? For example ALG=mappo; `list-algorithms` lists them")
    return SweepOptions(**fields_in("sweep", values))


def parse_resume_options(words: Sequence[str]) -> ResumeOptions:
    """Parse the options of `resume <folder>`.

    Raises:
      SweepError: the folder is missing, or an option is unknown or has an invalid value.
    """
    folder, values = _folder_and_values("resume", words)
    return ResumeOptions(folder, **fields_in("resume", values))


def parse_extend_options(words: Sequence[str]) -> ExtendOptions:
    """Parse the options of `extend <folder>`.

    Raises:
      SweepError: the folder or SAMPLES is missing, or an option is unknown or has an invalid value.
    """
    folder, values = _folder_and_values("extend", words)
    given = fields_in("extend", values)
    samples = given.pop("samples", None)
    if samples is None:
        raise SweepError("SAMPLES: how many more configurations? For example SAMPLES=8")
    return ExtendOptions(ResumeOptions(folder, **given), samples)


def parse_promote_options(words: Sequence[str]) -> PromoteOptions:
    """Parse the options of `promote <folder>`.

    Raises:
      SweepError: the folder is missing, or an option is unknown or has an invalid value.
    """
    folder, values = _folder_and_values("promote", words)
    return PromoteOptions(folder, **fields_in("promote", values))


def parse_claim_options(words: Sequence[str]) -> tuple[SweepOptions, str]:
    """Parse the options of the sweep that claims are made about, and the text of the claims.

    Raises:
      SweepError: CLAIM is missing or given twice, or an option is unknown or has an invalid value.
    """
    claims = [word.removeprefix("CLAIM=") for word in words if word.startswith("CLAIM=")]
    if len(claims) != 1:
        raise SweepError(f"CLAIM: expected it once, got it {len(claims)} times; for example CLAIM='{FORM}'")
    return parse_sweep_options([word for word in words if not word.startswith("CLAIM=")]), claims[0]


def parse_verdict_options(words: Sequence[str]) -> PromoteOptions:
    """Parse the options of `verdict <folder>`; the claims determine the test seeds.

    Raises:
      SweepError: the folder is missing, or an option is unknown or has an invalid value.
    """
    folder, values = _folder_and_values("verdict", words)
    return PromoteOptions(folder, 1, **fields_in("verdict", values))


def parse_rerun_options(words: Sequence[str]) -> RerunOptions:
    """Parse the options of `rerun <trial>`.

    Raises:
      SweepError: the trial is missing, or an option is unknown or has an invalid value.
    """
    trials = [word for word in words if "=" not in word or Path(word).is_dir()]
    if len(trials) != 1:
        raise SweepError(f"rerun: expected one trial's id or folder, got {len(trials)}")
    values = read_words([word for word in words if word not in trials], "rerun")
    return RerunOptions(trials[0], **fields_in("rerun", values))


def _folder_and_values(verb: str, words: Sequence[str]) -> tuple[Path, dict[str, str]]:
    folders = [word for word in words if "=" not in word or Path(word).is_dir()]
    if len(folders) != 1:
        raise SweepError(f"{verb}: expected one sweep folder, got {len(folders)}")
    values = read_words([word for word in words if word not in folders], verb)
    return folder_in(folders[0], verb), values
