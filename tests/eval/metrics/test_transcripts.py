"""WER and CER of clips: from sound through Whisper to the rates, and from transcripts that are given."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_whisper import HIGH, LOW, RATE, rewrite, tone, write_tiny_whisper
from ovi_eval.backbones.whisper import CHOICE, WEIGHTS, Whisper
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import Item, MemoryItem
from ovi_eval.common.needs import lacking
from ovi_eval.common.weights import WEIGHTS_FOLDER
from ovi_eval.errors import UserError
from ovi_eval.metrics.error_rates import character_edits, plain, word_edits
from ovi_eval.metrics.transcripts import (
    GIVEN,
    RATES,
    SPOKEN,
    Transcripts,
    read_transcripts,
    words_to_say,
)
from ovi_eval.scoring.feature_cache import FeatureCache
from ovi_eval.scoring.runner import ScoringOptions, score_items

METRICS = tuple(RATES.values())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_tiny_whisper(folder / "whisper-base")
    return folder


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CHOICE, GIVEN, SPOKEN, WEIGHTS_FOLDER):
        monkeypatch.delenv(name, raising=False)


def clips(captions: list[str], waves: list[torch.Tensor] | None = None) -> list[Item]:
    """In memory, with the ids c0, c1 ...; each with a second of its sound, a hum if none is given."""
    waves = waves or [tone(200 + 50 * place) for place in range(len(captions))]
    ids = [f"c{place}" for place in range(len(captions))]
    frames = torch.zeros(len(ids), 2, 8, 8, 3, dtype=torch.uint8)
    rows = ClipSet(ids, captions, frames, 24.0, torch.stack(waves), RATE)
    return [MemoryItem(rows, place) for place in range(len(ids))]


@pytest.mark.slow
def test_from_sound_through_whisper_to_the_rates(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(weights))
    items = clips(
        [
            "Rain on a roof. <S>It is raining.<E> <AUDCAP>Rain.<ENDAUDCAP>",
            "A woman says <S>We lost it,<E> pauses and adds <S>John!<E>",
            "<S>Somebody speaks<E> though nothing is heard",
            "A dog barks.",
        ],
        [tone(300), tone(2500), torch.zeros(RATE), tone(300)],
    )
    scored = score_items(items, None, METRICS)
    texts = [
        (plain(said), plain(heard))
        for said, heard in (("It is raining.", LOW), ("We lost it, John!", HIGH), ("Somebody speaks", ""))
    ]
    wanted: dict[str, float] = {}
    for key, count in (("wer", word_edits), ("cer", character_edits)):
        edits_N, units_N = np.transpose([count(*pair) for pair in texts])
        rates_N = edits_N / units_N
        assert [row.get(key) for row in scored.per_clip] == [*rates_N, None]
        wanted |= {key: rates_N.mean(), f"{key}_pooled": edits_N.sum() / units_N.sum()}
    assert [row.get("wer") for row in scored.per_clip] == [0.0, 0.25, 1.0, None]
    for key, value in wanted.items():
        score = scored.values[key]
        assert score.value == pytest.approx(value, abs=1e-12)
        assert (score.n, score.coverage, score.direction) == (3, 0.75, "lower")
        assert score.variant.startswith("whisper-base, weights ")
        assert list(score.weights) == ["whisper-base/model.safetensors"]
        assert score.ci95 is not None
        assert score.ci95[0] <= score.value <= score.ci95[1]
    assert (scored.values["wer"].kind, scored.values["wer_pooled"].kind) == ("mean", "set")
    assert set(scored.reasons[3]) == {metric.name for metric in METRICS}
    assert "no speech between <S> and <E>; OVI_EVAL_SPOKEN=caption" in scored.reasons[3]["wer"]
    nothing = score_items(items[3:], None, METRICS).values
    assert [(score.value, score.n, score.ci95) for score in nothing.values()] == [(None, 0, None)] * 4


def test_long_sound_is_written_down_window_by_window(weights: Path) -> None:
    whisper = Whisper(weights / "whisper-base", torch.device("cpu"))
    pictures = whisper.prepare(torch.cat([tone(300), tone(2500), tone(300, 0.6)]).numpy())
    assert len(pictures) == 3
    assert whisper.write_down(pictures) == f"{LOW} {HIGH} {LOW}"


def test_given_transcripts_need_no_whisper_and_give_jiwers_numbers(
    tmp_path: Path, goldens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = json.loads((goldens / "face_vbench_wer.json").read_text(encoding="utf-8"))["jiwer"]
    with (tmp_path / "heard.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(f"c{place}.mp4", pair["ref"], pair["hyp"]) for place, pair in enumerate(golden["pairs"])]
        csv.writer(file).writerows([("id", "caption", "text"), *rows])
    monkeypatch.setenv(GIVEN, str(tmp_path / "heard.csv"))
    assert lacking(Transcripts.needs, "wer") == []
    items = clips([f"<S>{pair['ref']}<E>" for pair in golden["pairs"]] + ["<S>one more<E>"])
    scored = score_items(items, None, METRICS)
    assert [row.get("wer") for row in scored.per_clip] == [*(pair["wer"] for pair in golden["pairs"]), None]
    assert [row.get("cer") for row in scored.per_clip[:5]] == [pair["cer"] for pair in golden["pairs"]]
    assert scored.values["wer_pooled"].value == pytest.approx(golden["corpus_wer_pooled"], abs=1e-15)
    assert scored.values["wer"].value == pytest.approx(golden["mean_of_per_clip_wer"], abs=1e-15)
    assert scored.values["wer"].variant.startswith("transcripts ")
    assert "the transcripts have none of it" in scored.reasons[5]["wer"]


def test_a_caption_is_read_whole_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heard.jsonl").write_text('{"id": "c0", "text": "good morning"}\n{"id": "c1", "text": "b"}\n')
    monkeypatch.setenv(GIVEN, str(tmp_path / "heard.jsonl"))
    items = clips(["Good morning!", "a hum <S>b<E>"])
    assert score_items(items, None, [RATES["wer"]]).per_clip == [{"wer": None}, {"wer": 0.0}]
    monkeypatch.setenv(SPOKEN, "caption")
    scored = score_items(items, None, [RATES["wer"]])
    assert scored.per_clip == [{"wer": 0.0}, {"wer": 0.0}]
    assert scored.values["wer"].variant.endswith("captions as spoken")
    monkeypatch.setenv(SPOKEN, "everything")
    with pytest.raises(UserError, match="OVI_EVAL_SPOKEN is 'everything'; choose one of tags, caption"):
        Transcripts()


def test_another_caption_is_not_answered_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heard.tsv").write_text("id\ttext\nc0\tone two\n")
    monkeypatch.setenv(GIVEN, str(tmp_path / "heard.tsv"))
    options = ScoringOptions(cache=FeatureCache(tmp_path / "cache"))
    for caption, rate in (("<S>one two<E>", 0.0), ("<S>one three<E>", 0.5), ("<S>one two<E>", 0.0)):
        assert score_items(clips([caption]), None, [RATES["wer"]], options).values["wer"].value == rate
    (tmp_path / "heard.tsv").write_text("id\ttext\nc0\tsix\n")
    assert score_items(clips(["<S>one two<E>"]), None, [RATES["wer"]], options).values["wer"].value == 1.0


def test_the_interval_of_a_pooled_rate_draws_clips_whole() -> None:
    metric = RATES["wer_pooled"]()
    for place, (edits, units) in enumerate([(0, 10), (0, 10), (30, 30), (0, 10), (5, 10)]):
        metric.update(place, {"words": torch.tensor([edits, units], dtype=torch.float32)})
    assert float(metric.compute()["wer_pooled"]) == 0.5
    interval = metric.details(0, 200)["wer_pooled"].interval
    assert interval is not None
    # The third clip is all but one error: in 1 of 3 resamples it is not drawn, in 1 of 17 three times or more.
    assert interval.low < 0.05
    assert 0.75 < interval.high < 1
    assert metric.details(0, 200)["wer_pooled"].interval == interval
    assert metric.details(0, 0) == {}


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("She says <S>one<E> then <S>two\nthree<E>.", "one two\nthree"),
        ("<S><E>", ""),
        ("<S>open", "<S> without <E>"),
        ("closed<E>", "<S> without <E>"),
        ("<S>a <S>b<E>", "<S> without <E>"),
        ("plain", "no speech between <S> and <E>"),
        (" ", "it has no caption"),
    ],
)
def test_what_should_be_said_stands_between_the_marks(caption: str, wanted: str) -> None:
    if wanted.endswith(("<E>", "caption")):
        with pytest.raises(UserError, match=wanted):
            words_to_say(caption)
    else:
        assert words_to_say(caption) == wanted


def test_what_is_needed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"needs Whisper's speech recognition: the folder whisper-base"):
        Transcripts()
    monkeypatch.setenv(CHOICE, "whisper-large-v3")
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    (line,) = lacking(Transcripts.needs, "wer")
    assert line.startswith("wer needs Whisper's speech recognition: the folder whisper-large-v3")
    assert "https://huggingface.co/openai/whisper-large-v3" in line


def _cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])


def _without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.encoder.conv1.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_cut_off, "cannot be read as a Whisper model"),
        (_without_a_tensor, r"such as model\.encoder\.conv1\.weight"),
        (
            lambda folder: rewrite(folder, "config.json", d_model=48),
            r"holds other weights than its config\.json describes, such as model\.",
        ),
        (
            lambda folder: rewrite(folder, "preprocessor_config.json", sampling_rate=8000),
            "takes sound at 8000 Hz",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as a Whisper model"),
        (
            lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
            r"has no model\.safetensors",
        ),
    ],
)
def test_a_folder_that_is_no_whole_whisper_is_refused(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object],
    named: str,
) -> None:
    damage(Path(shutil.copytree(weights / "whisper-base", tmp_path / "whisper-base")))
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    with pytest.raises(UserError, match=named):
        Transcripts()


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.txt", "", "come in a .csv, .tsv or .jsonl file"),
        ("a.jsonl", '{"id": "a"}', r"a.jsonl: line 1: it must have file \(or id\) and text"),
        ("a.jsonl", "[1]", r"line 1: is \[1\], expected an object"),
        ("a.jsonl", "{", "line 1: is no JSON"),
        ("a.csv", "id,text\na,b\na.mp4,c\n", "line 3: it gives a a second text that differs"),
        (
            "a.csv",
            "id,caption\na,b\n",
            "has the columns id, caption: expected a first line that names file and text",
        ),
    ],
)
def test_faulty_transcripts_are_named(tmp_path: Path, name: str, content: str, named: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=named) as error:
        read_transcripts(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        read_transcripts(tmp_path / "absent.csv")


def test_quoted_transcripts_keep_their_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('name,transcript\nsub/a.wav,"one\ntwo, three"\nb,\n')
    assert read_transcripts(path) == {"sub/a": "one\ntwo, three", "b": ""}
