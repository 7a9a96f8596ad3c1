"""SyncNet: cepstra of little sound, planted offsets, windows, and crops that are refused."""

import numpy as np
import pytest
import torch

from helpers.generated_weights import GeneratedWeights
from ovi_eval.backbones import syncnet
from ovi_eval.backbones.mfcc import mfcc
from ovi_eval.check.generated import clip, wave
from ovi_eval.errors import UserError


def test_cepstra_of_silence_and_of_little() -> None:
    assert np.isfinite(mfcc(np.zeros(1000, np.int16))).all()
    assert [len(mfcc(np.ones(n, np.int16))) for n in (1, 400, 401, 560, 561)] == [1, 1, 2, 2, 3]
    sound = wave(16000, 3.0)
    for bad, text in (
        (sound[:0], r"got \[0\] of int16"),
        (sound / 32768, "of float64"),
        (sound.reshape(2, -1), r"got \[2, 24000\]"),
    ):
        with pytest.raises(UserError, match=text):
            mfcc(bad)


@pytest.mark.parametrize("offset", [-15, -4, 0, 4, 15])
def test_a_planted_offset_is_found(offset: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sound = torch.randn(90, 64, generator=generator)
    # What the picture shows is heard `offset` windows before it.
    seen, heard = 0.9 * sound[15 - offset : 75 - offset], sound[15:75]
    sync = syncnet.judge(syncnet.shift_distances(seen, heard))
    assert sync.offset == offset
    assert sync.confidence > 3


@pytest.mark.slow
def test_windows_are_those_that_picture_and_sound_both_have(generated: GeneratedWeights) -> None:
    network = generated.network(syncnet.SyncNet, syncnet.FILE)
    pictures, sound = torch.from_numpy(clip(20, 224, 224)), wave(16000, 0.8)
    seen_VE, heard_VE = syncnet.embeddings(network, pictures, sound)
    sync = syncnet.measure(network, pictures, sound[: 18 * 640 + 639])
    assert sync.mean_R.shape == (31,)
    torch.testing.assert_close(
        sync.mean_R, syncnet.shift_distances(seen_VE[:13], heard_VE[:13]).mean(1), rtol=1e-5, atol=0
    )


def test_faults_are_reported() -> None:
    with torch.device("meta"):
        network = syncnet.SyncNet()
    crop, sound = torch.zeros(6, 224, 224, 3, dtype=torch.uint8), np.zeros(6 * 640, np.int16)
    for frames, wave_S, text in (
        (crop[:5], sound, "at least 6 frames .* got 5 and 3840"),
        (crop, sound[:-1], "got 6 and 3839"),
        (crop[:, :200], sound, r"got \[6, 200, 224, 3\] of torch.uint8"),
        (crop.float(), sound, "of torch.float32"),
        (crop, sound.astype(np.float32), "of float32"),
    ):
        with pytest.raises(UserError, match=text):
            syncnet.embeddings(network, frames, wave_S)
    with pytest.raises(UserError, match="window by window"):
        syncnet.shift_distances(torch.zeros(3, 4), torch.zeros(4, 4))
