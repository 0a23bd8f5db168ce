"""The errors that users see. Each message names the value, the place and the remedy."""

from __future__ import annotations


class JaxPartyError(Exception):
    """Base of every error that is the user's to act on."""


class ConfigError(JaxPartyError):
    """A config key that is unknown, ill-typed, out of range, or at odds with another."""


class SweepError(JaxPartyError):
    """A sweep that cannot be run as it was asked for."""


class RecordError(JaxPartyError):
    """A trial folder whose record or metrics cannot be read or written."""


class StorageError(RecordError):
    """Storage that cannot be reached, or refuses; or a folder on it that another process holds."""


class StorageRefused(StorageError):
    """Storage that has refused to be written, or read, for longer than anyone waits."""


class VaultError(JaxPartyError):
    """A vault that cannot be opened, or that another process is writing."""


class CheckpointError(JaxPartyError):
    """No whole checkpoint where one is needed."""


class TrainingDiverged(JaxPartyError):
    """Training produced a loss that is not finite; the trial has failed and is not retried."""
