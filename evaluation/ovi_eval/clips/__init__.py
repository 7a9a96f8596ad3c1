"""Clips as their files' timestamps have them: one decoder of picture and sound for everything that reads media.

`picture` and `sound` stream a file's frames and samples on the clip's clock, `timing` says which frame is seen when,
`clip` puts both together. See docs/clips.md.
"""
