"""The feature cache: it spares the network, knows what features depend on, and believes no file of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helpers.small_metrics import METRICS, Levels, Loudness
from ovi_eval.clips.items import items_in
from ovi_eval.errors import UserError
from ovi_eval.scoring.feature_cache import FeatureCache
from ovi_eval.scoring.results_of import Scored
from ovi_eval.scoring.runner import ScoringOptions, score_items


def test_the_cache_spares_the_network_and_changes_nothing(
    made: Path, real: Path, scored: Scored, tmp_path: Path
) -> None:
    cached = ScoringOptions(resamples=False, cache=FeatureCache(tmp_path / "cache"))

    def runs_so_far() -> int:
        assert score_items(items_in(made), items_in(real), METRICS, cached) == scored
        return len(Levels.runs)

    assert runs_so_far() == 16
    assert runs_so_far() == 16  # all features are those of the cache
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 16
    files[3].write_bytes(files[3].read_bytes()[:40])  # damaged on disk: made again
    assert runs_so_far() == 17


def test_the_cache_knows_content_version_and_caption(made: Path, tmp_path: Path) -> None:
    cache, extractor, item = FeatureCache(tmp_path), Levels(), items_in(made)[0]
    path = cache.path(item, extractor)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((made / "c00.mp4").read_bytes())
    assert cache.path(items_in(copy)[0], extractor) == path  # the same clip under another name

    class Newer(Levels):
        version = "2"

    class Reader(Levels):
        reads_caption = True

    assert cache.path(item, Newer()) != path
    assert cache.path(items_in(made)[1], extractor) != path
    before = cache.path(item, Reader())
    item.caption = "another"
    assert cache.path(item, Reader()) != before
    assert cache.path(item, extractor) == path


def test_cache_files_that_are_not_what_was_written_are_made_again(made: Path, tmp_path: Path) -> None:
    cache, extractor = FeatureCache(tmp_path), Levels()
    item, other = items_in(made)[:2]
    features = extractor.run(extractor.load(item))
    path, foreign = cache.path(item, extractor), cache.path(other, extractor)
    cache.put(other, extractor, {name: tensor + 1 for name, tensor in features.items()})
    cache.put(item, extractor, features)
    whole = path.read_bytes()
    kept = cache.get(item, extractor)
    assert kept is not None
    assert all(torch.equal(kept[name], features[name]) for name in features)
    spoiled = bytearray(whole)
    spoiled[-1] ^= 1  # one bit of one feature
    for content in (
        bytes(spoiled),
        whole[:-3],
        b"",
        b"\xff" * 100,
        (2**62).to_bytes(8, "little"),
        foreign.read_bytes(),
    ):
        path.write_bytes(content)
        assert cache.get(item, extractor) is None
    save_file(features, path)  # the same numbers, by somebody else
    assert cache.get(item, extractor) is None
    path.unlink()
    path.mkdir()
    assert cache.get(item, extractor) is None


def test_a_cache_that_cannot_be_written_says_so(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*or choose another folder by --cache"):
        score_items(items_in(made), None, [Loudness], ScoringOptions(cache=FeatureCache(tmp_path / "file")))
