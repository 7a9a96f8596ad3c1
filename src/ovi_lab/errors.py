"""The error of a user's mistake, one class for both packages."""

from ovi_eval.errors import UserError

__all__ = ["UserError"]
