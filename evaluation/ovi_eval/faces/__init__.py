"""Faces in clips: found in each frame, followed from frame to frame within a scene, and cut out as SyncNet sees them.

`boxes`: rectangles and their overlap. `detection`: what a detector is, and which there are. `scenes`: where
cuts are. `tracks`: faces followed. `crop`: the picture of one. `clip`: a clip made ready for all this.
"""
