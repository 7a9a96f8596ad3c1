"""Wan2.2's VAE against the reference's numbers, by the published file's names."""

import re

import pytest
import torch
from safetensors.torch import save_file

from helpers.published_goldens import golden, listed, on_meta
from ovi_lab.codecs import LatentCodec, codec_class
from ovi_lab.codecs.band_vocoder import BandVocoder
from ovi_lab.codecs.wan22 import LATENT_MEAN, LATENT_STD, Wan22Config, Wan22VAE, build, diffusers_name
from ovi_lab.errors import UserError
from ovi_lab.weights.torch_files import load_named

TOLERANCE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def numbers(goldens):
    return golden(goldens / "wan22_vae_tiny.safetensors")


@pytest.fixture(scope="module")
def tiny(numbers) -> Wan22Config:
    _, facts = numbers
    mean, std = facts["inputs/latent_mean"].tolist(), facts["inputs/latent_std"].tolist()
    return Wan22Config(4, 6, 6, res_blocks=1, latent_mean=mean, latent_std=std)


@pytest.fixture(scope="module")
def file(numbers, tmp_path_factory):
    path = tmp_path_factory.mktemp("wan22") / "Wan2.2_VAE.pth"
    torch.save(numbers[0], path)
    return path


@pytest.fixture(scope="module")
def vae(file, tiny) -> Wan22VAE:
    return Wan22VAE.from_file(file, tiny)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (lambda facts: facts["inputs/video_5f_32x48"], "out/mu_5f"),
        (lambda facts: facts["inputs/video_5f_32x48"][:, :, :1], "out/mu_1f(first frame of video_5f)"),
        (lambda facts: facts["inputs/video_9f_32x32"], "out/mu_9f"),
    ],
)
def test_latents_are_the_references(vae, numbers, frames, expected) -> None:
    torch.testing.assert_close(vae.encode_pixels(frames(numbers[1])), numbers[1][expected], **TOLERANCE)


def test_the_mean_before_it_is_scaled(vae, numbers) -> None:
    facts = numbers[1]
    mean, std = (facts[f"inputs/latent_{name}"].view(-1, 1, 1, 1) for name in ("mean", "std"))
    latents = vae.encode_pixels(facts["inputs/video_5f_32x48"])
    torch.testing.assert_close(latents * std + mean, facts["out/mu_5f_unscaled"], **TOLERANCE)


@pytest.mark.parametrize(
    ("latents", "expected"),
    [
        ("inputs/z", "out/decode_z"),
        ("out/mu_5f", "out/decode_mu_5f"),
        ("out/mu_1f(first frame of video_5f)", "out/decode_mu_1f"),
    ],
)
def test_pixels_are_the_references(vae, numbers, latents, expected) -> None:
    """The reference's, clipped to the range of a pixel, as its caller does."""
    facts = numbers[1]
    torch.testing.assert_close(vae.decode_pixels(facts[latents]), facts[expected].clamp(-1, 1), **TOLERANCE)


def test_uint8_frames_are_the_same_way_in_and_out(vae, numbers) -> None:
    pixels = numbers[1]["inputs/video_5f_32x48"]
    frames = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
    latents = vae.encode(frames)
    assert latents.dtype == torch.float32
    assert latents.shape == (1, 6, 2, 2, 3)
    exact = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    torch.testing.assert_close(latents, vae.encode_pixels(exact), **TOLERANCE)
    decoded = vae.decode(latents)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == frames.shape
    back = decoded.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    assert float((back - vae.decode_pixels(latents)).abs().max()) <= 0.5 / 127.5 + 1e-5


def test_full_size_names_and_shapes_are_the_published(goldens) -> None:
    rows = listed(goldens / "wan22_vae_keys.txt.gz")
    assert len(rows) == 196
    assert {row[0]: diffusers_name(row[0]) for row in rows} == {row[0]: row[2] for row in rows}
    model = build(Wan22Config())
    load_named(model, on_meta(rows), "the list", diffusers_name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == 704_688_668


def test_published_latent_scales(numbers) -> None:
    _, facts = numbers
    assert torch.equal(torch.tensor(LATENT_MEAN), facts["const/latent_mean_48"])
    assert torch.equal(torch.tensor(LATENT_STD), facts["const/latent_std_48"])


def test_safetensors_and_torch_files_are_the_same_codec(vae, numbers, tiny, tmp_path) -> None:
    save_file(numbers[0], tmp_path / "vae.safetensors")
    other = Wan22VAE.from_file(tmp_path / "vae.safetensors", tiny)
    z = numbers[1]["inputs/z"]
    assert torch.equal(other.decode_pixels(z), vae.decode_pixels(z))
    assert not any(p.requires_grad for p in other.model.parameters())


def test_bfloat16_is_close(file, tiny, vae, numbers, caplog) -> None:
    other = Wan22VAE.from_file(file, tiny, torch.bfloat16)
    z = numbers[1]["inputs/z"]
    expected, found = vae.decode_pixels(z), other.decode_pixels(z)
    assert found.dtype == torch.float32
    assert 0 < float((found - expected).norm() / expected.norm()) < 3e-2
    assert caplog.text == ""


def test_a_saved_pair_is_the_same_codec(vae, numbers, tmp_path) -> None:
    sound = BandVocoder(8000, iterations=1)
    generator = torch.Generator().manual_seed(0)
    sound.fit([torch.rand(2, 8000, generator=generator) - 0.5])
    pair = LatentCodec(codec_class("video", "wan22")(vae.model, vae.configuration), sound, fps=24)
    pair.save(tmp_path / "codec.safetensors")
    loaded = LatentCodec.load(tmp_path / "codec.safetensors")
    z = numbers[1]["inputs/z"]
    assert torch.equal(loaded.video.decode(z), vae.decode(z))
    # the first frame stands alone: 121 frames are 31 latent ones
    assert loaded.latent_shapes(121, 704, 704)["video"] == (6, 31, 44, 44)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((1, 4, 32, 32, 3), "use 1 frames of 32x32"), ((1, 5, 40, 32, 3), "use 5 frames of 32x32")],
)
def test_sizes_that_do_not_fit_are_refused(vae, shape, hint) -> None:
    with pytest.raises(UserError, match=hint):
        vae.encode(torch.zeros(shape, dtype=torch.uint8))


def test_values_of_the_wrong_kind_are_refused(vae) -> None:
    with pytest.raises(UserError, match="expected uint8"):
        vae.encode(torch.zeros(1, 5, 32, 32, 3))
    with pytest.raises(UserError, match=re.escape("expected [B,6,F,h,w]")):
        vae.decode(torch.zeros(1, 48, 2, 2, 2))


def test_another_size_is_refused(file) -> None:
    with pytest.raises(UserError, match="does not fit this model"):
        Wan22VAE.from_file(file)


def test_other_strides_than_the_published_are_refused() -> None:
    with pytest.raises(UserError, match="strides of 4 frames"):
        Wan22Config(temporal=(True, True, True))
    with pytest.raises(UserError, match="one for each of its 6 channels"):
        Wan22Config(channels=6)
    with pytest.raises(UserError, match="unknown key 'width'"):
        Wan22Config.of({"width": 3})
