"""Errors that are the user's to mend."""


class BadInput(ValueError):
    """Bad input: one line that names the place, what was found there, and the fix. The CLI exits with code 2."""
