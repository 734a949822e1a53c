"""The one kind of error that a command shows without a traceback."""


class UserError(ValueError):
    """Something the user can mend: bad input, a bad setting, a path that is taken.

    The message names the file, flag or field, quotes what was received and says what to do. The
    command line prints it as it is and exits with status 2.
    """
