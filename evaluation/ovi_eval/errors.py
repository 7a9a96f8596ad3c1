"""The error of a user's mistake, which commands show as one line."""


class UserError(Exception):
    """What the user can put right: the message says which value is wrong, what was expected and what to do."""

    exit_code = 2
    """Of a command that ends with it."""
