"""`ovi-data latents`: media to latents by saved and by published encoders, and what training does with them."""

import json
import os
import wave
from pathlib import Path

import pytest
import torch

from ovi_eval.common.files import file_sha256
from ovi_lab.checkpoints import weights_layout
from ovi_lab.codecs import LatentCodec, mmaudio
from ovi_lab.codecs.wan22 import Wan22VAE
from ovi_lab.data.cli import main
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.decode import array_members
from ovi_lab.data.index import index_path, read_index
from ovi_lab.data.module import OviDataModule
from ovi_lab.data.shards import ShardWriter
from ovi_lab.errors import UserError
from ovi_lab.sampling.small_ovi import AUDIO_CODEC, TEXT, VIDEO_CODEC, write_small
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
        with ShardWriter(folder / f"m-{s:03d}.tar") as shard:
            for n in range(3):
                shard.write(f"s{s}-{n}", clip(10 * s + n, 9 if n == 2 else 6 if (s, n) == (1, 1) else 5))
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


def test_published_encoders_give_what_they_give_alone(latents: Path, weights: Path) -> None:
    dataset = ClipDataset(sorted(latents.glob("*.tar")))
    assert [e.key for e in dataset.entries] == [
        "s0-0",
        "s0-1",
        "s0-2",
        "s1-0",
        "s1-2",
        "s2-0",
        "s2-1",
        "s2-2",
    ]
    video = Wan22VAE.from_file(weights / weights_layout.VIDEO_VAE, VIDEO_CODEC)
    sizes = mmaudio.MMAudioConfig(**AUDIO_CODEC)
    vae = mmaudio.load_vae(weights / weights_layout.AUDIO_VAE, sizes, torch.float32, "cpu")
    audio = mmaudio.MMAudioCodec(vae, mmaudio.build_vocoder(sizes), sizes)
    text = UMT5Text(
        weights / weights_layout.TEXT_ENCODER, weights / weights_layout.TOKENIZER, configuration=TEXT
    )
    for number, n in ((0, 0), (2, 2), (4, 12)):
        members = clip(n, 9 if n % 10 == 2 else 5)
        sample = dataset[number]
        frames, sound = _arrays(members)
        torch.testing.assert_close(sample["video"], video.encode(frames[None])[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(sample["audio"], audio.encode(sound[None])[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(sample["text"], text([sample["caption"]])[0], atol=1e-5, rtol=0)
        assert (sample["caption"], sample["meta"]) == (f"clip {n}. Audio: noise", {"n": n})


def _arrays(members: dict[str, bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    from ovi_lab.data.decode import read_media

    read = read_media(members)
    return read.frames_THWC, read.wave_S


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


def test_whole_shards_stay_and_what_was_made_otherwise_is_refused(
    latents: Path, media: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["latents", str(media / "m-*.tar"), "--out", str(latents / "l"), "--weights", str(weights)]
    before = {p.name: p.stat().st_mtime_ns for p in latents.glob("*.tar")}
    lost = latents / "l-002.tar"
    bytes_before = lost.read_bytes()
    lost.unlink()
    index_path(latents / "l-001.tar").unlink()  # as a kill between the tar and its index leaves it
    (latents / ".l-002.tar.1.tmp").write_bytes(b"of a process that was killed")
    assert main([*command, "--text"]) == 0
    assert "1 made, 2 were there" in " ".join(capsys.readouterr().out.split())
    assert lost.read_bytes() == bytes_before
    for name in ("l-000.tar", "l-001.tar"):
        assert (latents / name).stat().st_mtime_ns == before[name]
    assert index_path(latents / "l-001.tar").is_file()
    assert not list(latents.glob(".*.tmp"))
    assert main(command) == 2
    assert "l-000.tar is there, made of other clips, by other encoders" in capsys.readouterr().err


def test_a_clip_that_does_not_fit_is_named_or_stops_it(
    media: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["latents", str(media / "m-001.tar"), "--out", str(tmp_path / "l"), "--weights", str(weights)]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "2, 1 skipped" in printed
    assert "s1-1: 6 frames of 32x32 do not fit the Wan2.2 VAE" in printed
    other = [*command[:3], str(tmp_path / "raised"), *command[4:], "--on-error", "raise"]
    assert main(other) == 2
    assert "s1-1: 6 frames" in capsys.readouterr().err
    assert not list(tmp_path.glob("raised*"))
    with ShardWriter(tmp_path / "last.tar") as shard:
        shard.write("good", clip(0))
        shard.write("bad", clip(1, 6))
    assert main(["latents", str(tmp_path / "last.tar"), *other[2:]]) == 2
    assert "last.tar: bad: 6 frames" in capsys.readouterr().err
    assert not list(tmp_path.glob("raised*"))


def test_a_folder_of_sounds_becomes_batches_of_sound(weights: Path, tmp_path: Path) -> None:
    """Half precision, several lengths, captions in a table that leaves one out."""
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(5):
        sound = torch.sin(torch.arange(4000 * (n + 1)) / 16000 * 2765) * 9000
        with wave.open(str(folder / f"s{n}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(sound.short().numpy().tobytes())
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\n" + "".join(f"s{n}.wav,sound {n}\n" for n in range(4)))
    command = [
        "latents",
        str(folder),
        "--out",
        str(tmp_path / "a"),
        "--weights",
        str(weights),
        "--audio-only",
    ]
    assert main([*command, "--captions", str(table), "--clips-per-shard", "3", "--dtype", "bf16"]) == 0
    shards = sorted(tmp_path.glob("a-*.tar"))
    assert [[e.key for e in read_index(p).entries] for p in shards] == [["s0", "s1", "s2"], ["s3"]]
    data = OviDataModule(
        world=None, root=tmp_path, shards=[str(p) for p in shards], modalities=["audio"], tokens_per_batch=40
    )
    lengths = [7, 15, 23, 31]
    assert data.latent_shapes == {"audio": (7, 20)}
    batches = list(data.train_dataloader())
    assert all("video" not in batch and "text" not in batch for batch in batches)
    assert all(a.dtype == torch.float32 for batch in batches for a in batch["audio"])
    assert {len(a) for batch in batches for a in batch["audio"]} <= set(lengths)
    with pytest.raises(UserError, match=r"no usable clip .* it has no video latents, only audio"):
        OviDataModule(world=None, root=tmp_path, shards=str(shards[0])).setup()


def test_captions_that_cannot_be_read_whole_are_named(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A text of more tokens than umT5 reads, a text in another encoding; links, and what is no sound."""
    folder = tmp_path / "in"
    (tmp_path / "linked").mkdir()
    folder.mkdir()
    (folder / "more").symlink_to(tmp_path / "linked")
    for path in (folder / "long.wav", folder / "latin.wav", tmp_path / "linked/short.wav"):
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(torch.zeros(4000).short().numpy().tobytes())
        path.with_suffix(".txt").write_text("rain " * 600 if path.stem == "long" else "rain")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "gone.wav").symlink_to("nowhere.wav")
    (folder / "notes.md").write_text("")
    command = ["latents", str(folder), "--out", str(tmp_path / "a"), "--weights", str(weights)]
    command += ["--audio-only", "--text"]
    assert main(command) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1, 2 skipped" in told
    assert "latin.wav: its caption latin.txt: is no UTF-8 text" in told
    assert "tokens and 512 are read" in told
    assert "--long-captions cut_middle or cut_end" in told
    assert "1 file ignored (1 .md), 1 broken link: gone.wav" in caplog.text
    assert [e.key for e in read_index(tmp_path / "a-000.tar").entries] == ["more/short"]
    assert main([*command, "--long-captions", "cut_middle"]) == 2  # made otherwise
    capsys.readouterr()
    assert main([*command, "--long-captions", "cut_middle", "--overwrite"]) == 0
    assert [e.key for e in read_index(tmp_path / "a-000.tar").entries] == ["long", "more/short"]
    assert "are lost from its middle (--long-captions cut_middle)" in caplog.text


def test_latents_of_two_codecs_are_refused(
    latents: Path, media: Path, weights: Path, tmp_path: Path, codec: LatentCodec, world_folder: Path
) -> None:
    other = write_small(tmp_path / "ovi", seed=5)
    command = ["latents", str(media / "m-000.tar"), "--out", str(tmp_path / "o"), "--weights", str(other)]
    assert main(command) == 0
    both = [str(latents / "l-000.tar"), str(tmp_path / "o-000.tar")]
    with pytest.raises(
        UserError, match=r"the video latents of .*o-000.tar were made by wan22 sha256:\w+, those of"
    ):
        ClipDataset(both, stored_text=False)
    settings = {"world": None, "root": tmp_path, "shards": both[0], "stored_text": False}
    with pytest.raises(UserError, match=r"the video latents of .*o-000.tar were made by"):
        OviDataModule(**settings, val=both[1]).setup()
    with pytest.raises(
        UserError, match=r"codec.safetensors \(sha256:\w+\) did not make the video latents of"
    ):
        OviDataModule(**settings, codec=world_folder / "codec.safetensors").setup()
    world = str(world_folder / "train-latents-000.tar")  # says nothing of its codec, but has other channels
    with pytest.raises(
        UserError, match=r"train-latents-000.tar have 24 channels, those of .*l-000.tar have 48"
    ):
        ClipDataset([both[0], world], stored_text=False)
    with pytest.raises(UserError, match=r"no usable clip .* it has no text embedding"):
        ClipDataset(both[1], stored_text=True)


def test_torchrun_divides_the_shards(media: Path, weights: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(os.environ, "RANK", "1")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "3")
    command = ["latents", str(media / "m-*.tar"), "--out", str(tmp_path / "l"), "--weights", str(weights)]
    assert main([*command, "--audio-only"]) == 0
    assert [p.name for p in tmp_path.glob("*.tar")] == ["l-001.tar"]
    assert len(read_index(tmp_path / "l-001.tar").entries) == 3  # whose picture does not fit still has sound


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.tar"], "nothing to encode with: name a saved --codec, or a folder of released --weights"),
        (["m.tar", "--codec", "c", "--text"], "--text needs --weights"),
        (["m.tar", "--codec", "c", "--shard", "2/2"], "--shard is '2/2'; expected I/N"),
        (["m.tar", "--codec", "c", "--batch-size", "0"], "--batch-size is 0; at least 1"),
        ([".", "--codec", "c"], ". is a folder: name it alone with --audio-only"),
        ([".", "--codec", "c", "--audio-only"], "no sound is in .: expected .wav"),
        (["m.tar", "--codec", "c", "--captions", "x.csv"], "--captions is for a folder of sounds"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tar").write_bytes(bytes(10240))
    assert main(["latents", *arguments, "--out", "o"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_weights_that_are_missing_are_named(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["latents", str(media / "m-000.tar"), "--out", str(tmp_path / "l"), "--weights"]
    assert main([*command, str(tmp_path / "none")]) == 2
    assert "none is no folder" in capsys.readouterr().err
    assert main([*command, str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no MMAudio VAE at" in error
    assert "no Wan2.2 VAE at" in error
