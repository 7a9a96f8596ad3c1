"""Error rates of transcripts, and the numbers that others published."""

from __future__ import annotations

from collections.abc import Iterator

from ovi_eval.check.case import Cases, Setting
from ovi_eval.check.lines import Line, close, same
from ovi_eval.metrics.error_rates import character_error_rate, word_error_rate
from ovi_eval.results.published import published_tables

CASES = Cases()
FACES_JSON, NUMBERS_JSON = "face_vbench_wer.json", "published_numbers.json"
FASTVIDEO = "fastvideo_reference_scores"


@CASES.case("wer.pairs", "WER, CER", "jiwer 4.0.0", f"{FACES_JSON}: jiwer")
def pairs(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.json(FACES_JSON, "jiwer")
    references = [pair["ref"] for pair in golden["pairs"]]
    heard = [pair["hyp"] for pair in golden["pairs"]]
    words = word_error_rate(references, heard, "spaced")
    characters = character_error_rate(references, heard, "spaced")
    for number, pair in enumerate(golden["pairs"]):
        for what, rates, key in (("WER", words, "wer"), ("CER", characters, "cer")):
            found = rates.per_clip[number]
            quantity = f"{what} of pair {number + 1}"
            yield same(quantity, found, pair[key], why="ratios of the same whole numbers")
    yield same("WER, pooled", words.pooled, golden["corpus_wer_pooled"])
    mean = words.mean if words.mean is not None else float("nan")
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
    details = golden["details"]
    rate = word_error_rate([details["reference_text"]], [details["transcription"]])
    yield same("WER of whisper-base's transcript of ltx2", rate.pooled, golden["score"])
    written = setting.goldens.json(f"{FASTVIDEO}/ltx2.metadata.json", "reference_text")
    rate = word_error_rate([written], [details["transcription"]])
    yield same("WER against the dialogue as written, plain", rate.pooled, golden["score"])


@CASES.case("published.rows", "published numbers", "the sources that each row names", f"{NUMBERS_JSON}: rows")
def rows(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.json(NUMBERS_JSON, "rows")
    tables = {table.table: table for table in published_tables()}
    yield same("number of tables", len(tables), len(golden))
    for row in golden:
        own = tables.get(row["table"])
        told = {(s, m): v for s, values in row["systems"].items() for m, v in values.items()}
        found = {(s, m): v for s, values in own.rows.items() for m, v in values.items()} if own else {}
        faults = [
            f"{system}, {metric}: {found.get((system, metric))} instead of {told.get((system, metric))}"
            for system, metric in sorted(told.keys() | found.keys())
            if found.get((system, metric)) != told.get((system, metric))
        ]
        if own and (own.source.split()[0], own.seen_in) != (row["url"].split()[0], row["seen_in"]):
            faults.append("another source")
        if own and own.first_hand is not row["first_hand"]:
            faults.append("another word on whether the source was read")
        expected = f"{len(told)} values"
        name = row["table"].split(",")[0].split(" (")[0]
        yield same(f"{name}: values and source", "; ".join(faults) or f"{len(found)} values", expected)
