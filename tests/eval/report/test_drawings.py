"""What the page draws of a clip and of an axis: spectrogram, strip of frames, ticks."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ovi_eval.report import curve_figure
from ovi_eval.report.html import timeline_picture as pictures
from ovi_eval.report.html.drawings import ticks


def test_a_tone_and_a_click_stand_where_they_sound():
    rate, seconds = 16000, 2.0
    time = np.arange(int(rate * seconds)) / rate
    wave = 0.5 * np.sin(2 * np.pi * 1000 * time) * (time > 1.0)
    bright = pictures.spectrogram(wave, rate).astype(int).sum(axis=2)
    rows = np.geomspace(8000, 50, pictures.SPECTROGRAM)
    loudest = bright[:, pictures.WIDTH * 3 // 4].argmax()
    assert rows[loudest] == pytest.approx(1000, rel=0.06)
    begins = np.argmax(bright[loudest] > bright[loudest].max() / 2)
    assert begins / pictures.WIDTH * seconds == pytest.approx(1.0, abs=0.04)


def test_the_strip_shows_each_moment_in_its_place():
    frames = np.zeros((10, 20, 20, 3), dtype=np.uint8)
    frames[5:, :, :, 1] = 200
    strip = pictures.strip(frames)
    assert strip.shape == (pictures.STRIP, pictures.WIDTH, 3)
    assert (strip[:, : pictures.WIDTH // 2] == 0).all()
    assert (strip[:, pictures.WIDTH // 2 :, 1] == 200).all()
    image = Image.open(io.BytesIO(pictures.timeline(torch.from_numpy(frames), torch.zeros(8000), 8000)))
    assert image.size == (512, 168)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 12.1), (0.2531, 0.2984), (17, 2300), (-5, -4.9)])
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 8
    assert all(low <= tick <= high for tick in found)
    assert all(len(f"{tick:g}") <= 7 for tick in found)


def test_labels_of_a_logarithmic_axis_do_not_overlap():
    values = [0.05, 0.1, 0.15, 0.175, 0.19676, 0.22, 0.25, 0.3, 0.4, 0.8]
    labels = curve_figure.labelled(values, 0.19676)
    shown = [value for value, label in zip(values, labels, strict=True) if label]
    assert shown == [0.05, 0.1, 0.19676, 0.3, 0.4, 0.8]
    assert curve_figure.labelled([2, 4, 8, 50], None) == ["2", "4", "8", "50"]
