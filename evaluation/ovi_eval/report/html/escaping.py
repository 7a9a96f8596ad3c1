"""The templates of pages, into which text from files goes escaped."""

from __future__ import annotations

import re
from collections.abc import Callable

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ovi_eval.report.wording import line


def escaping_environment(load: Callable[[str], str]) -> Environment:
    """Templates by name as `load` gives them, without indentation.

    Text is one line without control characters, not too long, and escaped; what a template does not get is an error.
    """
    return Environment(
        loader=FunctionLoader(lambda name: re.sub(r"\n\s+", "\n", load(name))),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        # before HTML's own characters are escaped
        finalize=lambda value: (
            value if not isinstance(value, str) or isinstance(value, Markup) else line(value)
        ),
    )
