"""The errors that users see. Each message names the value, the place and the remedy."""

from __future__ import annotations


class JaxPartyError(Exception):
    """Base of every error that the user can act on."""


class ConfigError(JaxPartyError):
    """A config key that is unknown, ill-typed, out of range, or inconsistent with another."""


class SweepError(JaxPartyError):
    """A sweep that cannot be run as requested."""


class RecordError(JaxPartyError):
    """A trial folder whose record or metrics cannot be read or written."""


class StorageError(RecordError):
    """Storage that cannot be reached, or refuses; or a folder in it that another process holds."""


class StorageRefused(StorageError):
    """Storage that has refused reads or writes for longer than the retry limit."""


class VaultError(JaxPartyError):
    """A vault that cannot be opened, or that another process is writing."""


class CheckpointError(JaxPartyError):
    """No complete checkpoint where one is needed."""


class TrainingDiverged(JaxPartyError):
    """Training produced a loss or a parameter that is not finite; the trial has failed and is not retried."""
