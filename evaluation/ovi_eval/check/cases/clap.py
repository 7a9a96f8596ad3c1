"""CLAP with generated weights: how sound is prepared, both towers, and the cosine of fixed features."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ovi_eval.backbones import clap
from ovi_eval.backbones.clap_keys import BASE, TINY, Size
from ovi_eval.backbones.clap_sound import PIECE, SAMPLE_RATE, fill_piece, pieces, round_to_int16
from ovi_eval.check.case import CannotRunError, Cases, Setting, keys_of
from ovi_eval.check.generated import gaussian, wave
from ovi_eval.check.lines import Line, close, members, same
from ovi_eval.common.weights import PublishedFile
from ovi_eval.errors import UserError
from ovi_eval.metrics.clap import cosines

CASES = Cases()
CLAP, CLAP_JSON = "clap_golden.safetensors", "clap_golden.json"
AUDIO, EXTRA_JSON = "audio_golden.safetensors", "extra_golden.json"
METRIC, RELEASE = "CLAP", "laion_clap 1.1.7"
FASTVIDEO = "fastvideo_reference_scores"


@CASES.case(
    "clap.sound", METRIC, "laion-ai/CLAP@1fd4c37d", f"{AUDIO}: clap.*", f"{EXTRA_JSON}: clap_repeatpad"
)
def sound(setting: Setting) -> Iterator[Line]:
    given, expected = (setting.goldens.tensor(AUDIO, f"clap.q_{end}") for end in ("in", "out"))
    why = "the same operations in float32"
    yield close("16-bit round trip [64]", round_to_int16(given), expected, rtol=0, atol=1e-7, why=why)
    rule = setting.goldens.json(EXTRA_JSON, "clap_repeatpad")
    filled = fill_piece(torch.arange(1, rule["len"] + 1).float())
    yield same("repeats of a short sound", int((filled == 1).sum()), rule["repeats"])
    yield same("zeros after them", PIECE - int(filled.nonzero().max()) - 1, rule["zeros_after"])


@CASES.case("clap.cosine", METRIC, "av-benchmark@050a5cdb", f"{EXTRA_JSON}: clap_score_fixed_embeddings")
def cosine(setting: Setting) -> Iterator[Line]:
    expected = setting.goldens.json(EXTRA_JSON, "clap_score_fixed_embeddings")
    drawn_text, drawn = (torch.from_numpy(gaussian(key, 8 * 512)).reshape(8, 512) for key in ("ct", "ca"))
    text_NE = drawn_text.float()
    # The golden's sum is one of float64 numbers, rounded once.
    found_N = cosines((text_NE.double() + 2 * drawn).float(), text_NE)
    why = "the reference keeps float32"
    yield close("mean of 8 cosines", float(found_N.mean()), expected["mean"], rtol=1e-6, why=why)
    yield close(
        "mean of 8 cosines, torch", float(found_N.mean()), expected["torch_cosine_mean"], rtol=1e-6, why=why
    )
    spread = float(found_N.std(unbiased=False))
    yield close("their spread", spread, expected["std"], rtol=1e-6, why=why)


def _network(name: str, file: PublishedFile, size: Size, laion: bool = False) -> None:
    """The towers of one size in transformers, or in laion_clap itself where that can be imported."""
    keys = f"laion_clap_{name}_keys.txt.gz"

    @CASES.case(
        f"clap.{name}_laion" if laion else f"clap.{name}",
        METRIC,
        RELEASE,
        *keys_of(CLAP, f"{name}.*", "text.*"),
        f"{CLAP_JSON}: models",
        f"{keys}: *",
        slow=True,
    )
    def run(setting: Setting) -> Iterator[Line]:
        if laion:
            try:
                clap.import_laion()
            except UserError as error:
                raise CannotRunError(str(error)) from error
        golden = setting.goldens.tensor
        facts = setting.goldens.json(CLAP_JSON, "models", name)
        built = clap.as_built(size)
        yield members("tensors that are left as built", built, facts["left_as_built"])
        network = clap.load_clap(
            setting.generated_weights(file, keys, built), file, size, laion=laion
        ).network
        waves_NP = torch.cat(
            [
                pieces(torch.from_numpy(wave(SAMPLE_RATE, 10.0, seed)).float() / 32768, "", "float")
                for seed in (0, 1)
            ]
        )
        tokens_NL, mask_NL = golden(CLAP, "text.input_ids"), golden(CLAP, "text.attention_mask")
        with torch.no_grad():
            audio_NE, text_NE = network.sounds(waves_NP), network.texts(tokens_NL, mask_NL)
        why = "features have length 1; values near zero"
        for what, found_NE, key in (("sound", audio_NE, "audio"), ("caption", text_NE, "text")):
            expected = golden(CLAP, f"{name}.{key}_embedding")
            yield close(f"features [2, 512] of the {what}", found_NE, expected, atol=1e-5, why=why)
        found = audio_NE.double() @ text_NE.double().T
        yield close("cosines [2, 2]", found, facts["cos_audio_text"], atol=1e-6, why=why)


_network("htsat_tiny", clap.AUDIO_630K, TINY)
_network("htsat_base", clap.MUSIC_SPEECH, BASE)
_network("htsat_base", clap.MUSIC_SPEECH, BASE, laion=True)

CASES.not_run(
    "clap.ltx2_fused",
    METRIC,
    "FastVideo@2f3d4074",
    f"{FASTVIDEO}/audio.clap_score.json: *",
    reason="needs laion/clap-htsat-fused, a checkpoint with feature fusion; ovi-eval's scores are those without it",
)
