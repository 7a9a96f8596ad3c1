"""`ovi-data check`: whether shards, their indexes, sums, manifest and list of clips agree, and every sample decodes."""
