"""Speech or not, and how good it sounds.

Shapes: S samples.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ovi_eval.backbones import dnsmos, whisper
from ovi_eval.backbones.onnx_file import OnnxFile
from ovi_eval.clips.clipset import SILENT
from ovi_eval.clips.writing import resample
from ovi_eval.common.files import file_sha256
from ovi_eval.common.installation import install_hint
from ovi_eval.common.needs import Need, Package, find_folder, imported
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import find_weights
from ovi_lab.data.build.clip import Candidate, Scores
from ovi_lab.data.build.step import BuildStep, ScoreSpec, lacking
from ovi_lab.data.build.steps.networks import digests_of, missing_of
from ovi_lab.errors import UserError

SILERO = Package("silero_vad", install_hint("build"), "whose package carries its weights")
ONNXRUNTIME = Package("onnxruntime", install_hint("build"), "to run networks")
VAD_RATE, VAD_WINDOW, VAD_CONTEXT = 16_000, 512, 64
"""Silero VAD reads 512 samples at 16 kHz after the last 64 of the window before."""


def wave_16k(clip: Candidate) -> NDArray[np.float32]:
    """The sound [S] at 16 kHz."""
    if clip.wave_S is None:
        raise TypeError("the clip has no sound")
    wave: NDArray[np.float32] = resample(clip.wave_S, clip.sample_rate, VAD_RATE).float().numpy()
    return wave


class Speech(BuildStep):
    """`speech_share`: the share of windows of 32 ms whose probability of speech is `threshold` or more, by Silero VAD
    (github.com/snakers4/silero-vad, MIT), whose package carries its network. No code of the package is run.
    """

    name = "speech"
    needs: ClassVar = frozenset({"sound"})
    scores = (ScoreSpec("speech_share", "windows with speech", "share"),)

    def __init__(self, threshold: float = 0.5) -> None:
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < 1:
            raise UserError(
                f"step speech: threshold is {threshold!r}; expected a probability between 0 and 1"
            )
        self.threshold = float(threshold)

    @staticmethod
    def file() -> Path | None:
        """The network's file within the package; None where it is not installed."""
        spec = importlib.util.find_spec(SILERO.module)
        places = list(spec.submodule_search_locations or []) if spec else []
        path = Path(places[0]) / "data" / "silero_vad.onnx" if places else None
        return path if path is not None and path.is_file() else None

    def missing(self) -> str | None:
        return lacking(ONNXRUNTIME) or (
            None if self.file() else lacking(SILERO) or "silero_vad.onnx is missing"
        )

    def digests(self) -> dict[str, str]:
        path = self.file()
        return digests_of([path]) if path else {}

    def setup(self) -> None:
        onnxruntime = imported(ONNXRUNTIME, "finding speech")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            str(self.file()), options, providers=["CPUExecutionProvider"]
        )

    def measure(self, clip: Candidate) -> Scores:
        probabilities = self.probabilities(wave_16k(clip))
        if not len(probabilities):
            return {}
        return {"speech_share": float(np.mean(probabilities >= self.threshold))}

    def probabilities(self, wave_S: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of speech, for each whole window."""
        state = np.zeros((2, 1, 128), np.float32)
        context = np.zeros(VAD_CONTEXT, np.float32)
        found = []
        for begin in range(0, len(wave_S) - VAD_WINDOW + 1, VAD_WINDOW):
            window = wave_S[begin : begin + VAD_WINDOW]
            inputs = {
                "input": np.concatenate([context, window])[None],
                "state": state,
                "sr": np.array(VAD_RATE, dtype=np.int64),
            }
            probability, state = self._session.run(None, inputs)
            found.append(float(probability[0, 0]))
            context = window[-VAD_CONTEXT:]
        return np.array(found, np.float32)


class SpeechQuality(BuildStep):
    """DNSMOS P.835 (speech, background, overall) and P.808 of the sound, 1 to 5, as `ovi_eval` computes them."""

    name = "speech_quality"
    needs: ClassVar = frozenset({"sound"})
    files: ClassVar[tuple[Need, ...]] = (ONNXRUNTIME, dnsmos.P808_FILE, dnsmos.P835_FILE)
    scores = (
        ScoreSpec("dnsmos_p808", "speech quality by P.808", "1 to 5"),
        ScoreSpec("dnsmos_sig", "speech by P.835", "1 to 5"),
        ScoreSpec("dnsmos_bak", "background by P.835", "1 to 5"),
        ScoreSpec("dnsmos_ovrl", "overall by P.835", "1 to 5"),
    )

    def missing(self) -> str | None:
        return missing_of(self.files, "the step speech_quality")

    def digests(self) -> dict[str, str]:
        return digests_of([find_weights(f, self.name) for f in (dnsmos.P808_FILE, dnsmos.P835_FILE)])

    def setup(self) -> None:
        self._p808, self._p835 = (
            OnnxFile(find_weights(file, self.name), file, "build")
            for file in (dnsmos.P808_FILE, dnsmos.P835_FILE)
        )

    def measure(self, clip: Candidate) -> Scores:
        if clip.native_rate and clip.native_rate < dnsmos.SAMPLE_RATE:
            return {}
        wave_S = np.clip((wave_16k(clip) * 32768).round(), -32768, 32767).astype(np.float64) / 32768
        if not len(wave_S) or np.abs(wave_S).max() < SILENT:
            return {}
        (sig, bak, ovrl), _ = dnsmos.p835(self._p835, wave_S)
        p808 = dnsmos.p808(self._p808, wave_S)
        return {
            "dnsmos_p808": p808,
            "dnsmos_sig": float(sig),
            "dnsmos_bak": float(bak),
            "dnsmos_ovrl": float(ovrl),
        }


class SpokenLanguage(BuildStep):
    """`language`: the code of the language that Whisper hears in the first 30 s ("en"); `language_probability` among
    those that it knows. Whisper hears a language in any noise: bound it `when: {speech_share: {min: 0.1}}`.

    Whisper is a multilingual one in transformers' layout: the folder whisper-base below OVI_EVAL_WEIGHTS, or the one
    that OVI_EVAL_WHISPER names.
    """

    name = "language"
    needs: ClassVar = frozenset({"sound"})
    scores = (
        ScoreSpec("language", "language that is spoken", kind="text"),
        ScoreSpec("language_probability", "of that language", "probability"),
    )

    def missing(self) -> str | None:
        return missing_of([whisper.published_folder()], "the step language")

    def digests(self) -> dict[str, str]:
        folder = find_folder(whisper.published_folder(), self.name)
        return {f"{folder.name}/{whisper.WEIGHTS}": file_sha256(folder / whisper.WEIGHTS)}

    def setup(self) -> None:
        self._whisper = whisper.Whisper(find_folder(whisper.published_folder(), self.name), CPU)
        _ = self._whisper.languages  # of one language: refused before anything is measured

    def measure(self, clip: Candidate) -> Scores:
        wave_S = wave_16k(clip)
        if not len(wave_S) or np.abs(wave_S).max() < SILENT:
            return {}
        language, probability = self._whisper.language(self._whisper.prepare(wave_S))
        return {"language": language, "language_probability": probability}
