"""The ball world's latents in shards of four kinds: both parts, sound alone, silent video, stills."""

from collections.abc import Mapping
from pathlib import Path

from helpers.latent_shards import write_shard
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.decode import latent_members
from ovi_lab.data.prepare import WorldSettings, prepare_world, shards_of

COUNTS = {"both": 20, "sound": 12, "silent_video": 8, "still": 8}


def write_mixed(folder: Path, data_root: Path, counts: Mapping[str, int] = COUNTS) -> dict[str, str]:
    """The shard of each kind, written where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    world = prepare_world(WorldSettings("bouncing_ball", sum(COUNTS.values()), 8), data_root, quiet=True)
    clips, number = ClipDataset(shards_of(world, "train", "latents")), 0
    shards = {}
    for kind, count in counts.items():
        members = {}
        for n in range(number, number + count):
            clip = clips[n]
            video = {"sound": None, "still": clip["video"][:, :1]}.get(kind, clip["video"])
            audio = None if kind in ("silent_video", "still") else clip["audio"]
            members[f"{kind}-{n:03d}"] = latent_members(clip["caption"], clip["meta"], video, audio)
        number += count
        path = folder / f"{kind}.tar"
        if not path.is_file():
            write_shard(path, members)
        shards[kind] = str(path)
    return shards
