"""The commands of ovi_lab meet their user as those of ovi_eval do; here a UserError is one line too."""

from __future__ import annotations

from functools import partial

from ovi_eval.common import boundary
from ovi_eval.common.boundary import LineParser, Told, fail
from ovi_lab.errors import UserError

__all__ = ["MISTAKES", "LineParser", "Told", "command", "fail", "one_line"]

MISTAKES = UserError
"""What a user can mend."""

command = partial(boundary.command, mistakes=MISTAKES)
one_line = partial(boundary.one_line, mistakes=MISTAKES)
