"""From a folder of videos to training shards: what `ovi-data build` does."""
