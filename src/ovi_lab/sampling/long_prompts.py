"""Prompts held against the length that the text encoder reads, by its tokenizer alone, before weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.sampling.bundle import Bundle
from ovi_lab.sampling.pipeline import Plan
from ovi_lab.sampling.requests import BadRow
from ovi_lab.text.lengths import CutTexts
from ovi_lab.text.prompts import check_tags


def fit_prompts(
    plans: Sequence[Plan], bundle: Bundle, settings: SamplerSettings, choice: str, strict: bool = False
) -> tuple[list[Plan], list[BadRow]]:
    """The plans with prompts as the model reads them, and those whose texts are too long.

    Args:
        plans: of requests.
        bundle: whose text encoder reads them.
        settings: whose negative prompts are those of requests that name none.
        choice: see `ovi_lab.text.lengths`; with "cut_end" texts stay as they are here, and are cut
            with a warning where they are encoded.
        strict: raise the first that is too long.

    Raises:
        UserError: there is no tokenizer; with `strict`, a text that is too long, or whose tags were cut apart.
    """
    if choice == "cut_end" or not plans:
        return list(plans), []
    fit = bundle.length_check(choice)
    fitting: list[Plan] = []
    bad: list[BadRow] = []
    for plan in plans:
        try:
            fitting.append(replace(plan, prompt=_fitted(plan, settings, fit)))
        except UserError as error:
            if strict:
                raise
            bad.append(BadRow(plan.request.name, str(error)))
    return fitting, bad


def _fitted(plan: Plan, settings: SamplerSettings, fit: CutTexts) -> str:
    prompt = fit(plan.prompt)
    if prompt != plan.prompt:
        try:
            check_tags(prompt)
        except UserError as error:
            raise UserError(f"without its middle {error}; shorten the prompt") from error
    if fit.choice == "refuse":
        for name in ("negative_video", "negative_audio"):
            own = getattr(plan.request, name)
            fit(getattr(settings, name) if own is None else own)
    return prompt
