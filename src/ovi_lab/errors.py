"""The one exception for what a user can get wrong; the command line shows its message and nothing else."""


class UserError(Exception):
    """Bad input: the message names the value, what was expected and what to do, in one line."""
