"""Sync-C, Sync-D (LSE-C, LSE-D) and offset by SyncNet, of the faces in a clip or of ready face crops.

See `docs/metrics/lip_sync.md` for every choice. A clip's values are those of the face track with the highest
Sync-C: of several people, the one who speaks. A clip without a track is missing, never 0, so the share of clips
with a value says how many have one.

Shapes: K tracks, R = 31 shifts.
"""

from typing import Any, ClassVar

import torch

from ovi_eval.backbones import s3fd, syncnet, ultraface
from ovi_eval.backbones.syncnet_crop import Crop, read_crop, through_jpeg
from ovi_eval.clips.items import FileItem, Item
from ovi_eval.common.needs import Need, Package
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import find_weights, load_published
from ovi_eval.errors import UserError
from ovi_eval.faces import clip, crop, tracks
from ovi_eval.faces.detection import Detector, S3FDDetector, UltraFaceDetector, faces_in
from ovi_eval.faces.scenes import SCENEDETECT
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec, variant_of

CV2 = Package("cv2", SCENEDETECT.install, "to resize frames as SyncNet's release does")


class _SyncNet(Extractor):
    """SyncNet's weights, and its judgement of one crop."""

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        path = find_weights(syncnet.FILE, self.name)
        self.network = self.take(load_published(syncnet.SyncNet, path, syncnet.FILE))

    def judge(self, seen: Crop) -> syncnet.Sync:
        """Raises UserError for a crop too short for a window."""
        return syncnet.measure(self.network, seen.frames_FHWC, seen.wave_S)


def _features(judged: list[syncnet.Sync]) -> Features:
    """`distance`, `confidence` and `offset` [K], `mean_distances` [K, 31]."""
    return {
        key: torch.tensor([getattr(sync, key) for sync in judged], dtype=torch.float64)
        for key in ("distance", "confidence", "offset")
    } | {"mean_distances": torch.stack([sync.mean_R for sync in judged])}


class SyncNetTracks(_SyncNet):
    """SyncNet on each face track of a clip, found by S3FD as in SyncNet's release.

    Features: those of `_features`, `spans` [K, 2] (a track's first frame at 25 fps and the one after its last), and
    `detected` [K] (frames in which its face was found).
    """

    name = "syncnet_tracks"
    needs: ClassVar[tuple[Need, ...]] = (syncnet.FILE, s3fd.FILE, CV2, SCENEDETECT)
    preprocessing = (
        "25 fps by time, JPEG quantiser 2, cuts by ContentDetector 27, tracks by overlap 0.5 of at least 50 "
        "faces over 100 pixels, crops of scale 0.4 by median 13, JPEG at 200 kbit/s, 16 kHz int16 by FFmpeg"
    )
    finder: ClassVar[type[Detector]] = S3FDDetector

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        self.detector = self.finder.found(self.name, device)
        self.weights |= self.detector.weights
        self.variant = f"{self.variant}, faces by {self.detector.variant}"

    def load(self, item: Item) -> clip.PreparedClip:
        return clip.prepare(item, self.detector)

    def run(self, loaded: clip.PreparedClip) -> Features:
        by_frame = faces_in(self.detector, loaded.small, loaded.height, loaded.width)
        found = tracks.follow([by_frame[place] for place in loaded.shown], loaded.scenes)
        if not found:
            raise UserError(self._without(by_frame, len(loaded.shown)))
        judged, kept, reason = [], [], ""
        for track in found:
            pictures = through_jpeg(crop.crops(track, loaded.picture))
            try:
                judged.append(self.judge(Crop(pictures, loaded.sound(track.first, track.end))))
            except UserError as error:  # its sound ends too soon
                reason = str(error)
                continue
            kept.append(track)
        if not judged:
            raise UserError(reason)
        spans = torch.tensor([[track.first, track.end] for track in kept], dtype=torch.float64)
        detected = torch.tensor([track.detected for track in kept], dtype=torch.float64)
        return _features(judged) | {"spans": spans, "detected": detected}

    @staticmethod
    def _without(by_frame: list[Any], frames: int) -> str:
        seen = sum(len(boxes_N5) > 0 for boxes_N5 in by_frame)
        return (
            f"no face track of {tracks.SHORTEST} frames: {frames} frames at {syncnet.FPS} fps, faces in {seen} of "
            f"the file's {len(by_frame)}, which must overlap from one frame to the next and be wider or higher "
            f"than {tracks.SMALLEST:.0f} pixels"
        )


class SyncNetTracksUltraFace(SyncNetTracks):
    """SyncNet on each face track of a clip, found by UltraFace in plain torch. Features as `SyncNetTracks`."""

    name = "syncnet_tracks_ultraface"
    needs = (syncnet.FILE, ultraface.FILE, CV2, SCENEDETECT)
    finder = UltraFaceDetector


class SyncNetCrops(_SyncNet):
    """SyncNet on files that are face crops already, 224x224 at 25 fps. Features as `_features`, K = 1."""

    name = "syncnet_crops"
    needs: ClassVar[tuple[Need, ...]] = (syncnet.FILE,)
    preprocessing = "ready 224x224 crops at 25 fps, JPEG at 200 kbit/s, 16 kHz int16 by FFmpeg"

    def load(self, item: Item) -> Crop:
        if not isinstance(item, FileItem):
            raise UserError(f"{item.name}: is no file; face crops are read from video files")
        return read_crop(item.path)

    def run(self, loaded: Crop) -> Features:
        return _features([self.judge(loaded)])


class LipSync(ItemMean):
    """Sync-C, Sync-D and the absolute offset in frames at 25 fps, of the track with the highest confidence."""

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        best = int(features["confidence"].argmax())
        confidence, distance, offset = (
            float(features[name][best]) for name in ("confidence", "distance", "offset")
        )
        return [confidence, distance, abs(offset)]


class LipSyncOfAllTracks(ItemMean):
    """Sync-C and Sync-D as the mean over a clip's tracks, the silent ones too, as LatentSync's script takes them."""

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        return [float(features["confidence"].mean()), float(features["distance"].mean())]


def _values(name: str) -> tuple[ValueSpec, ...]:
    return (
        ValueSpec(f"{name}_c", "higher"),
        ValueSpec(f"{name}_d", "lower"),
        ValueSpec(f"{name}_offset", "lower", "frames"),
    )


SYNC: dict[str, type[ItemMean]] = {
    name: variant_of(base, name, extractor=extractor, values=_values(name)[:count])
    for name, base, extractor, count in (
        ("sync", LipSync, SyncNetTracks, 3),
        ("sync_all_tracks", LipSyncOfAllTracks, SyncNetTracks, 2),
        ("sync_ultraface", LipSync, SyncNetTracksUltraFace, 3),
        ("sync_crops", LipSync, SyncNetCrops, 3),
    )
}
"""The metrics by name: of tracks by either detector, or of files that are face crops already."""
