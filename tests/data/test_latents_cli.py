"""`ovi-data latents`: media to latents by saved and by published encoders, and what training does with them."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.latent_shards import write_shard
from helpers.made_clips import write_wav
from ovi_eval.common.files import file_sha256
from ovi_lab.checkpoints import weights_layout
from ovi_lab.codecs import mmaudio
from ovi_lab.codecs.wan22 import Wan22VAE
from ovi_lab.data.cli import main
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.decode import array_members, read_media
from ovi_lab.data.index import index_path, read_index
from ovi_lab.data.module import OviDataModule
from ovi_lab.errors import UserError
from ovi_lab.sampling.small_weights import AUDIO_CODEC, TEXT, VIDEO_CODEC, write_small
from ovi_lab.text import UMT5Text


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small Ovi, without what encoding does not need."""
    folder = write_small(tmp_path_factory.mktemp("weights") / "ovi")
    (folder / weights_layout.VOCODER).unlink()
    (folder / weights_layout.MODEL).unlink()
    return folder


def clip(n: int, frames: int = 5) -> dict[str, bytes]:
    generator = torch.Generator().manual_seed(n)
    frames_THWC = torch.randint(0, 255, (frames, 32, 32, 3), dtype=torch.uint8, generator=generator)
    sound = torch.rand(round(frames / 24 * 16000), generator=generator) - 0.5
    return array_members(f"clip {n}. Audio: noise", {"n": n}, frames_THWC, 24.0, sound, 16000)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards; one clip of the second has frames that the VAE does not take."""
    folder = tmp_path_factory.mktemp("media")
    for s in range(3):
        lengths = [5, 6 if s == 1 else 5, 9]
        write_shard(folder / f"m-{s:03d}.tar", {f"s{s}-{n}": clip(10 * s + n, lengths[n]) for n in range(3)})
    return folder


@pytest.fixture(scope="module")
def latents(media: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The middle shard by one process, the others by another."""
    out = tmp_path_factory.mktemp("latents") / "l"
    command = ["latents", str(media / "m-*.tar"), "--out", str(out), "--weights", str(weights), "--text"]
    assert main([*command, "--shard", "1/2"]) == 0
    assert sorted(p.name for p in out.parent.glob("*.tar")) == ["l-001.tar"]
    assert main([*command, "--shard", "0/2"]) == 0
    return out.parent


@pytest.mark.slow
def test_published_encoders_give_what_they_give_alone(latents: Path, weights: Path) -> None:
    dataset = ClipDataset(sorted(latents.glob("*.tar")))
    expected = [f"s{s}-{n}" for s in range(3) for n in range(3) if (s, n) != (1, 1)]
    assert [e.key for e in dataset.entries] == expected
    video = Wan22VAE.from_file(weights / weights_layout.VIDEO_VAE, VIDEO_CODEC)
    sizes = mmaudio.MMAudioConfig(**AUDIO_CODEC)
    vae = mmaudio.load_vae(weights / weights_layout.AUDIO_VAE, sizes, torch.float32, "cpu")
    audio = mmaudio.MMAudioCodec(vae, mmaudio.build_vocoder(sizes), sizes)
    text = UMT5Text(
        weights / weights_layout.TEXT_ENCODER, weights / weights_layout.TOKENIZER, configuration=TEXT
    )
    for number, n in ((0, 0), (2, 2), (4, 12)):
        read, sample = read_media(clip(n, 9 if n % 10 == 2 else 5)), dataset[number]
        torch.testing.assert_close(
            sample["video"], video.encode(read.frames_THWC[None])[0], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(sample["audio"], audio.encode(read.wave_S[None])[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(sample["text"], text([sample["caption"]])[0], atol=1e-5, rtol=0)
        assert (sample["caption"], sample["meta"]) == (f"clip {n}. Audio: noise", {"n": n})


@pytest.mark.slow
def test_the_index_knows_shapes_and_encoders_as_the_tar_does(
    latents: Path, weights: Path, tmp_path: Path
) -> None:
    shard = latents / "l-000.tar"
    stored = read_index(shard)
    assert stored.entries[2].shapes == {"video": (48, 3, 2, 2), "audio": (11, 20), "text": (21, 64)}
    assert stored.encoders == {
        "video": [f"wan22 sha256:{file_sha256(weights / weights_layout.VIDEO_VAE)}"],
        "audio": [f"mmaudio sha256:{file_sha256(weights / weights_layout.AUDIO_VAE)}"],
        "text": [f"umt5 sha256:{file_sha256(weights / weights_layout.TEXT_ENCODER)}"],
    }
    copy = tmp_path / shard.name  # a tar without its index, and one with an index that tells no shapes
    copy.write_bytes(shard.read_bytes())
    bare = read_index(copy)
    old = json.loads(index_path(shard).read_text())
    del old["encoders"]
    for sample in old["samples"]:
        del sample["shapes"]
    index_path(copy).write_text(json.dumps(old))
    for index in (bare, read_index(copy)):
        assert [e.shapes for e in index.entries] == [e.shapes for e in stored.entries]
        assert index.encoders == stored.encoders


@pytest.mark.slow
def test_complete_shards_stay_and_others_are_refused(
    latents: Path, media: Path, weights: Path, ovi_data: Callable[..., str]
) -> None:
    command = ["latents", media / "m-*.tar", "--out", latents / "l", "--weights", weights]
    before = {p.name: p.stat().st_mtime_ns for p in latents.glob("*.tar")}
    lost = latents / "l-002.tar"
    bytes_before = lost.read_bytes()
    lost.unlink()
    index_path(latents / "l-001.tar").unlink()  # as a kill between the tar and its index leaves it
    (latents / ".l-002.tar.1.tmp").write_bytes(b"of a process that was killed")
    printed = ovi_data(*command, "--text")
    assert "1 made, 2 were there" in printed
    assert "next: ovi-train experiment=own_clips data.shards=" in printed
    assert f"init_from.all={weights}/Ovi/model.safetensors" in printed
    assert lost.read_bytes() == bytes_before
    for name in ("l-000.tar", "l-001.tar"):
        assert (latents / name).stat().st_mtime_ns == before[name]
    assert index_path(latents / "l-001.tar").is_file()
    assert not list(latents.glob(".*.tmp"))
    refused = ovi_data(*command, code=2)
    assert "l-000.tar is there, made of other clips, by other encoders" in refused


@pytest.mark.slow
def test_a_clip_that_does_not_fit_is_named_or_stops_it(
    media: Path, weights: Path, tmp_path: Path, ovi_data: Callable[..., str]
) -> None:
    def encode(shard: Path, out: str, *arguments: str, code: int = 0) -> str:
        command = ["latents", shard, "--out", tmp_path / out, "--weights", weights]
        return ovi_data(*command, *arguments, code=code)

    printed = encode(media / "m-001.tar", "l")
    assert "2, 1 skipped" in printed
    assert "s1-1: 6 frames of 32x32 do not fit the Wan2.2 VAE" in printed
    last = write_shard(tmp_path / "last.tar", {"good": clip(0), "bad": clip(1, 6)})
    for shard, message in ((media / "m-001.tar", "s1-1: 6 frames"), (last, "last.tar: bad: 6 frames")):
        assert message in encode(shard, "raised", "--on-error", "raise", code=2)
        assert not list(tmp_path.glob("raised*"))


def test_a_folder_of_sounds_becomes_batches_of_sound(
    weights: Path, tmp_path: Path, ovi_data: Callable[..., str]
) -> None:
    """Half precision, several lengths, captions in a table that leaves one out."""
    (tmp_path / "in").mkdir()
    for n in range(5):
        tone = np.sin(np.arange(4000 * (n + 1)) / 16000 * 2765) * 9000
        write_wav(tmp_path / f"in/s{n}.wav", tone.astype(np.int16))
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\n" + "".join(f"s{n}.wav,sound {n}\n" for n in range(4)))
    command = ["latents", tmp_path / "in", "--out", tmp_path / "a", "--weights", weights, "--audio-only"]
    ovi_data(*command, "--captions", table, "--clips-per-shard", 3, "--dtype", "bf16")
    shards = sorted(tmp_path.glob("a-*.tar"))
    assert [[e.key for e in read_index(p).entries] for p in shards] == [["s0", "s1", "s2"], ["s3"]]
    settings = {"world": None, "root": tmp_path, "shards": [str(path) for path in shards]}
    data = OviDataModule(**settings, modalities=["audio"], tokens_per_batch=40)
    assert data.latent_shapes == {"audio": (7, 20)}
    batches = list(data.train_dataloader())
    assert all("video" not in batch and "text" not in batch for batch in batches)
    assert all(a.dtype == torch.float32 for batch in batches for a in batch["audio"])
    assert {len(a) for batch in batches for a in batch["audio"]} <= {7, 15, 23, 31}
    with pytest.raises(UserError, match=r"no usable clip .* it has no video latents, only audio"):
        OviDataModule(**settings).setup()


@pytest.mark.slow
def test_captions_that_cannot_be_read_whole_are_named(
    weights: Path, tmp_path: Path, ovi_data: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """A text of more tokens than umT5 reads, a text in another encoding; links, and what is no sound."""
    folder = tmp_path / "in"
    (tmp_path / "linked").mkdir()
    folder.mkdir()
    (folder / "more").symlink_to(tmp_path / "linked")
    for path in (folder / "long.wav", folder / "latin.wav", tmp_path / "linked/short.wav"):
        write_wav(path, np.zeros(4000))
        path.with_suffix(".txt").write_text("rain " * 600 if path.stem == "long" else "rain")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "gone.wav").symlink_to("nowhere.wav")
    (folder / "notes.md").write_text("")
    command = ["latents", folder, "--out", tmp_path / "a", "--weights", weights, "--audio-only", "--text"]
    printed = ovi_data(*command)
    assert "1, 2 skipped" in printed
    assert "latin.wav: its caption latin.txt: is no UTF-8 text" in printed
    assert "tokens and 512 are read" in printed
    assert "--long-captions cut_middle or cut_end" in printed
    assert "1 file ignored (1 .md), 1 broken link: gone.wav" in caplog.text
    assert [e.key for e in read_index(tmp_path / "a-000.tar").entries] == ["more/short"]
    ovi_data(*command, "--long-captions", "cut_middle", code=2)  # other settings than the shard's
    ovi_data(*command, "--long-captions", "cut_middle", "--overwrite")
    assert [e.key for e in read_index(tmp_path / "a-000.tar").entries] == ["long", "more/short"]
    assert "are lost from its middle (--long-captions cut_middle)" in caplog.text


@pytest.mark.slow
def test_latents_of_two_codecs_are_refused(
    latents: Path, media: Path, tmp_path: Path, world_folder: Path, ovi_data: Callable[..., str]
) -> None:
    other = write_small(tmp_path / "ovi", seed=5)
    ovi_data("latents", media / "m-000.tar", "--out", tmp_path / "o", "--weights", other)
    both = [str(latents / "l-000.tar"), str(tmp_path / "o-000.tar")]
    # says nothing of its codec, but has other channels
    world = str(world_folder / "train-latents-000.tar")
    settings = {"world": None, "root": tmp_path, "shards": both[0], "stored_text": False}
    codec = {"codec": world_folder / "codec.safetensors"}
    for refused, message in (
        (lambda: ClipDataset(both, stored_text=False), r"o-000.tar were made by wan22 sha256:\w+, those of"),
        (
            lambda: OviDataModule(**settings, val=both[1]).setup(),
            r"video latents of .*o-000.tar were made by",
        ),
        (
            lambda: OviDataModule(**settings, **codec).setup(),
            r"codec.safetensors \(sha256:\w+\) did not make",
        ),
        (
            lambda: ClipDataset([both[0], world], stored_text=False),
            r"train-latents-000.tar have 24 channels, those of .*l-000.tar have 48",
        ),
        (lambda: ClipDataset(both[1], stored_text=True), "no usable clip .* it has no text embedding"),
    ):
        with pytest.raises(UserError, match=message):
            refused()


def test_torchrun_divides_the_shards(
    media: Path, weights: Path, tmp_path: Path, monkeypatch, ovi_data: Callable[..., str]
) -> None:
    monkeypatch.setitem(os.environ, "RANK", "1")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "3")
    ovi_data("latents", media / "m-*.tar", "--out", tmp_path / "l", "--weights", weights, "--audio-only")
    assert [p.name for p in tmp_path.glob("*.tar")] == ["l-001.tar"]
    assert len(read_index(tmp_path / "l-001.tar").entries) == 3  # whose picture does not fit still has sound


def test_weights_that_are_missing_are_named(
    media: Path, tmp_path: Path, ovi_data: Callable[..., str]
) -> None:
    command = ["latents", media / "m-000.tar", "--out", tmp_path / "l", "--weights"]
    assert "none is no folder" in ovi_data(*command, tmp_path / "none", code=2)
    error = ovi_data(*command, tmp_path, code=2)
    assert "no MMAudio VAE at" in error
    assert "no Wan2.2 VAE at" in error
