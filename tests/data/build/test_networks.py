"""Steps with networks: on the real clips with the weights that are here, and by small networks where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from helpers.small_videos import moving, write
from helpers.tiny_whisper import write_tiny_whisper
from ovi_eval.backbones import aesthetics, text_detection, whisper
from ovi_eval.common.needs import missing
from ovi_eval.common.weights import WEIGHTS_FOLDER, in_package
from ovi_eval.errors import UserError as NotJudgedError
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.clip import Candidate
from ovi_lab.data.build.items import wav_bytes
from ovi_lab.data.build.recipe import load_recipe, read_recipe
from ovi_lab.data.build.steps.pictures import Aesthetics, ShownText
from ovi_lab.data.build.steps.speech import SpokenLanguage
from ovi_lab.errors import UserError

QUIET = BuildOptions(quiet=True)


def candidate(frames_THWC: Tensor | None = None, wave_S: Tensor | None = None) -> Candidate:
    return Candidate("a", "a.mp4", 0.0, frames_THWC, 24.0, wave_S, 16000)


@pytest.mark.slow
def test_the_paper_s_steps_on_a_real_clip(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UltraFace replaces S3FD; SyncNet's weights are not available, so its step is skipped and named."""
    monkeypatch.setenv(WEIGHTS_FOLDER, str(shared_dir / "weights"))
    videos = tmp_path / "videos"
    videos.mkdir()
    clip = shared_dir / "clips" / "sync" / "ovi_two_men_fixedcrop224_25fps.mp4"
    (videos / clip.name).symlink_to(clip)
    steps = {
        "motion": {"every": 40},
        "faces": {"frames": 3},
        "loudness": {},
        "speech": {},
        "text": {"frames": 1},
    }
    steps |= {"speech_quality": {}, "sync": {"detector": "ultraface"}, "fingerprints": {}}
    keep: Any = {"faces": {"min": 1, "max": 1}, "speech_share": {"min": 0.5}}
    keep |= {"dnsmos_ovrl": {"min": 2}, "sync_confidence": {"min": 1.5}}
    plain = {"clips": {"pixels": 224 * 224}, "steps": steps, "keep": keep, "without_caption": "empty"}
    recipe = read_recipe("mine", plain)
    with pytest.raises(UserError, match=r"step sync of recipe mine cannot run: .*syncnet_v2.model"):
        build(videos, tmp_path / "out", recipe, QUIET)
    assert not (tmp_path / "out").exists()
    built, skipped = build(videos, tmp_path / "out", recipe, BuildOptions(skip_missing=True, quiet=True))
    assert skipped == ["sync"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["not_applied"] == ["sync"]
    assert "sync_confidence" not in manifest["recipe"]["keep"]
    assert manifest["steps"]["faces"]["weights"].keys() == {"version-RFB-320.pth"}
    assert manifest["steps"]["speech_quality"]["weights"].keys() == {"model_v8.onnx", "sig_bak_ovr.onnx"}
    (row,) = (json.loads(line) for line in (tmp_path / "out" / "clips.jsonl").read_text().splitlines())
    scores = row["scores"]
    assert built.kept.total() == 1, row["dropped_by"]
    assert scores["faces"] == 1
    assert scores["face_share"] > 0.5  # UltraFace misses the face in one of three frames
    assert 0.4 < scores["face_size"] < 1
    assert 3 < scores["dnsmos_p808"] < 5
    assert scores["bandwidth"] > 7000
    assert -40 < scores["mean_volume"] < -10
    assert scores["text_share"] < 0.1


def test_text_that_stays_is_told_from_text_that_passes() -> None:
    if (reason := missing(text_detection.FILE)) is not None:
        pytest.skip(reason)
    step = ShownText(frames=2)
    step.setup()

    def frame(at: tuple[int, int] | None) -> Tensor:
        picture = Image.new("RGB", (256, 128), (60, 90, 120))
        if at is not None:
            ImageDraw.Draw(picture).text(at, "CHANNEL 5", (255, 255, 255), ImageFont.load_default(24))
        return torch.from_numpy(np.array(picture))

    empty, still, passing = (
        step.measure(candidate(torch.stack([frame(a), frame(b)])))
        for a, b in ((None, None), ((10, 10), (10, 10)), ((10, 10), (100, 90)))
    )
    assert empty == {"text_share": 0.0, "still_text_share": 0.0}
    assert still["text_share"] == still["still_text_share"]
    assert 0.02 < still["text_share"] < 0.15
    assert 0.02 < passing["text_share"] < 0.15
    assert passing["still_text_share"] == 0.0


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with a CLIP of a few thousand weights, under the published name."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("weights")
    size: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    vision = {**size, "image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config={**size, "vocab_size": 50}, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(root / aesthetics.CLIP_FOLDER.name)
    torch.save(
        {"weight": torch.randn(1, 8), "bias": torch.tensor([5.0])}, root / aesthetics.HEADS["linear"].name
    )
    widths = (8, *aesthetics.WIDTHS)
    layers = {}
    for place, inside, out in zip(("0", "2", "4", "6", "7"), widths[:-1], widths[1:], strict=True):
        layers |= {f"layers.{place}.weight": torch.randn(out, inside) / inside**0.5}
        layers |= {f"layers.{place}.bias": torch.zeros(out)}
    torch.save(layers, root / aesthetics.HEADS["mlp"].name)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_aesthetics_are_the_head_s_of_clips_features(
    small_clip: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CLIPModel

    monkeypatch.setenv(WEIGHTS_FOLDER, str(small_clip))
    step = Aesthetics(head, frames=2)
    assert step.missing() is None
    assert len(step.digests()) == 2
    step.setup()
    frames_THWC = moving(3, 3, side=32)
    found = step.measure(candidate(frames_THWC))["aesthetics"]
    model = CLIPModel.from_pretrained(small_clip / aesthetics.CLIP_FOLDER.name).eval()
    pixels = frames_THWC[[0, 2]].permute(0, 3, 1, 2) / 255  # of the network's size already
    mean, spread = (torch.tensor(v)[:, None, None] for v in (aesthetics.MEAN, aesthetics.SPREAD))
    with torch.no_grad():
        features = model.get_image_features(pixel_values=(pixels - mean) / spread)
    features = getattr(features, "pooler_output", features)
    x = features / features.norm(dim=-1, keepdim=True)
    weights = torch.load(small_clip / aesthetics.HEADS[head].name, weights_only=True)
    if head == "linear":
        x = x @ weights["weight"].T + weights["bias"]
    else:
        for place in ("0", "2", "4", "6", "7"):
            x = x @ weights[f"layers.{place}.weight"].T + weights[f"layers.{place}.bias"]
    assert found == pytest.approx(float(x.mean()), rel=1e-4)


def test_pictures_are_cut_to_clip_s_square() -> None:
    frames = torch.zeros(1, 64, 128, 3, dtype=torch.uint8)
    frames[:, :, 32:96] = 255
    square = aesthetics.prepared(frames, 32)
    white = (1 - torch.tensor(aesthetics.MEAN)) / torch.tensor(aesthetics.SPREAD)
    assert square.shape == (1, 3, 32, 32)
    assert torch.allclose(square[0, :, 16, 2:-2], white[:, None].expand(3, 28), atol=0.02)
    assert aesthetics.prepared(torch.zeros(1, 16, 8, 3, dtype=torch.uint8), 32).shape == (1, 3, 32, 32)


def test_a_head_of_another_kind_is_refused(small_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(small_clip))
    other = small_clip / aesthetics.HEADS["linear"].name
    with pytest.raises(
        NotJudgedError, match=r"other weights than those of LAION's aesthetic predictor, improved"
    ):
        aesthetics.AestheticPredictor(small_clip / aesthetics.CLIP_FOLDER.name, other, "mlp")


@pytest.mark.slow
def test_the_language_is_whisper_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_whisper(tmp_path / "tiny", steps=1)
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    monkeypatch.setenv(whisper.CHOICE, "tiny")
    step = SpokenLanguage()
    assert step.missing() is None
    with pytest.raises(NotJudgedError, match="knows one language and cannot tell which is spoken"):
        step.setup()
    clip = candidate(wave_S=torch.sin(torch.arange(16000) / 9))
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"is_multilingual": True, "lang_to_id": {"<|en|>": 10, "<|de|>": 20}}
    settings.pop("_from_model_config", None)  # which has the file passed over
    (folder / "generation_config.json").write_text(json.dumps(settings))
    step.setup()
    weights = step._whisper.network
    weights.proj_out.weight.data[10], weights.proj_out.weight.data[20] = 0.0, 0.0
    assert step.measure(clip)["language_probability"] == pytest.approx(0.5)
    with torch.no_grad():
        last = weights.model(
            input_features=step._whisper.prepare(clip.wave_S.numpy())[0],
            decoder_input_ids=torch.tensor([[weights.generation_config.decoder_start_token_id]]),
        ).last_hidden_state[0, 0]
    weights.proj_out.weight.data[20] = last
    found = step.measure(clip)
    assert found["language"] == "de"
    expected = 1 / (1 + float(torch.exp(-(last @ last))))
    assert found["language_probability"] == pytest.approx(expected, rel=1e-3)
    assert step.measure(candidate(wave_S=torch.zeros(16000))) == {}


@pytest.mark.parametrize(
    ("steps", "file"),
    [
        ({"aesthetics": {}}, "sa_0_4_vit_l_14_linear.pth"),
        ({"aesthetics": {"head": "mlp"}}, "sac.logos.ava1-l14-linearMSE.pth"),
        ({"language": {}}, "whisper-base"),
        ({"faces": {}}, "version-RFB-320.pth"),
    ],
)
def test_a_step_whose_weights_are_missing_names_the_file(
    steps: dict[str, Any], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    monkeypatch.delenv(whisper.CHOICE, raising=False)
    write(tmp_path / "videos" / "a.mp4", moving(1, 4))
    with pytest.raises(UserError, match=rf"step {next(iter(steps))} of recipe mine cannot run: .*{file}"):
        build(tmp_path / "videos", tmp_path / "out", read_recipe("mine", {"steps": steps}), QUIET)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "lengths"), [("paper_audio", [12.0, 2.5]), ("paper_audio_5s", [5.04, 5.04])]
)
def test_the_paper_s_clips_of_sound(recipe: str, lengths: list[float], tmp_path: Path) -> None:
    """14.5 s: stage 1 takes up to 12 s and what is left; stage 2 clips of 5.04 s alone."""
    from ovi_lab.data.decode import read_media
    from ovi_lab.data.index import read_index
    from ovi_lab.data.shards import ShardReader

    if in_package("silero_vad/data/silero_vad.onnx") is None:
        pytest.skip("silero-vad is not installed")
    g = torch.Generator().manual_seed(1)
    loud = torch.linspace(0.05, 0.3, round(14.5 * 16000))
    (tmp_path / "sounds").mkdir()
    noise_S = loud * torch.randn(len(loud), generator=g).clamp(-3, 3)
    (tmp_path / "sounds" / "a.wav").write_bytes(wav_bytes(noise_S, 16000))
    (tmp_path / "sounds" / "a.txt").write_text("Noise.")
    built, _ = build(tmp_path / "sounds", tmp_path / "out", load_recipe(recipe), QUIET)
    rows = [json.loads(line) for line in (tmp_path / "out" / "clips.jsonl").read_text().splitlines()]
    assert [row["scores"]["seconds"] for row in rows] == pytest.approx(lengths, abs=0.03)
    assert all(row["scores"]["speech_share"] < 0.1 for row in rows)
    (shard,) = built.shards
    clips = [
        read_media(ShardReader().read(entry), modalities=("audio",)) for entry in read_index(shard).entries
    ]
    assert [len(clip.wave_S) for clip in clips] == [
        round(16000 * s) for s in (r["scores"]["seconds"] for r in rows)
    ]
