"""What ends a command before its work is done, and is no fault of the program."""


class BadInput(ValueError):
    """Bad input: one line that names the place, what was found there, and the fix. The CLI exits with code 2."""


class Stopped(Exception):
    """A signal asked for the end; what the same command needs to go on is on disk. The CLI exits with code 4."""
