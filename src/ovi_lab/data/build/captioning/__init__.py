"""Captions for the clips of a build: what a captioner needs, asked of an endpoint, joined into the shards."""
