"""The error that commands show without a traceback."""


class UserError(ValueError):
    """An error that the user can fix: bad input, a bad setting, a path that is taken.

    The message names the file, flag or field, quotes the value, and tells how to go on. The command
    line prints it without a traceback and exits with status 2.
    """
