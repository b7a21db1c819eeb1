"""Errors that a user can mend: one line naming what, where, and what to do."""


class NpimputeError(Exception):
    """Base of every error that npimpute raises on purpose; its text is one line for the user."""


class InputError(NpimputeError):
    """A file that cannot be used: names the file, the record, what was found, and the remedy."""


class ConfigError(NpimputeError):
    """An option, or a combination of options, that cannot be used."""
