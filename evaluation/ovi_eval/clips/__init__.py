"""Decoding of clips by their files' timestamps: one decoder of picture and sound for everything that reads media.

`picture` and `sound` stream a file's frames and samples on the clip's clock, `timing` gives the frame of each moment,
`clip` joins both. See docs/clips.md.
"""
