"""The released Ovi at work: its parts on disk, in memory, and the clips they make together."""
