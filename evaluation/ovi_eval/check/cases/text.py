"""Error rates of transcripts, and the numbers that others published."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ovi_eval.check.case import Cases, Setting
from ovi_eval.check.lines import Line, close, same
from ovi_eval.metrics.error_rates import character_edits, plain, word_edits
from ovi_eval.metrics.transcripts import RATES
from ovi_eval.results.published import published_tables

CASES = Cases()
FACES_JSON, NUMBERS_JSON = "face_vbench_wer.json", "published_numbers.json"
FASTVIDEO = "fastvideo_reference_scores"


@CASES.case("wer.pairs", "WER, CER", "jiwer 4.0.0", f"{FACES_JSON}: jiwer")
def pairs(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.json(FACES_JSON, "jiwer")
    metrics = {name: metric() for name, metric in RATES.items()}
    for number, pair in enumerate(golden["pairs"]):
        found = (word_edits(pair["ref"], pair["hyp"]), character_edits(pair["ref"], pair["hyp"]))
        features = dict(zip(("words", "characters"), map(torch.tensor, found), strict=True))
        for metric in metrics.values():
            metric.update(number, features)
        for key, edits in zip(("wer", "cer"), found, strict=True):
            quantity = f"{key.upper()} of pair {number + 1}"
            yield same(quantity, edits.edits / edits.units, pair[key], why="ratios of the same whole numbers")
    pooled, mean = (float(metrics[name].compute()[name]) for name in ("wer_pooled", "wer"))
    yield same("WER, pooled", pooled, golden["corpus_wer_pooled"])
    expected = golden["mean_of_per_clip_wer"]
    yield close("WER, mean of clips", mean, expected, rtol=1e-14, why="the order of a sum")


@CASES.case(
    "wer.transcript",
    "WER",
    "FastVideo@2f3d4074",
    f"{FASTVIDEO}/audio.wer.json: *",
    f"{FASTVIDEO}/ltx2.metadata.json: reference_text",
)
def transcript(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.json(f"{FASTVIDEO}/audio.wer.json")
    heard = plain(golden["details"]["transcription"])
    written = setting.goldens.json(f"{FASTVIDEO}/ltx2.metadata.json", "reference_text")
    for quantity, reference in (
        ("WER of whisper-base's transcript of ltx2", golden["details"]["reference_text"]),
        ("WER against the dialogue as written, plain", written),
    ):
        edits, words = word_edits(plain(reference), heard)
        yield same(quantity, edits / words, golden["score"])


@CASES.case("published.rows", "published numbers", "the sources that each row names", f"{NUMBERS_JSON}: rows")
def rows(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.json(NUMBERS_JSON, "rows")
    tables = {table.table: table for table in published_tables()}
    yield same("number of tables", len(tables), len(golden))
    for row in golden:
        own = tables.get(row["table"])
        listed = {(s, m): v for s, values in row["systems"].items() for m, v in values.items()}
        found = {(s, m): v for s, values in own.rows.items() for m, v in values.items()} if own else {}
        faults = [
            f"{system}, {metric}: {found.get((system, metric))} instead of {listed.get((system, metric))}"
            for system, metric in sorted(listed.keys() | found.keys())
            if found.get((system, metric)) != listed.get((system, metric))
        ]
        if own and (own.source.split()[0], own.seen_in) != (row["url"].split()[0], row["seen_in"]):
            faults.append("another source")
        if own and own.first_hand is not row["first_hand"]:
            faults.append("another word on whether the source was read")
        expected = f"{len(listed)} values"
        name = row["table"].split(",")[0].split(" (")[0]
        yield same(f"{name}: values and source", "; ".join(faults) or f"{len(found)} values", expected)
