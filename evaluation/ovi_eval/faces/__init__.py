"""Faces in clips: detected in each frame, tracked within a scene, and cropped for SyncNet.

`detection`: the detectors. `scenes`: cuts. `tracks`: faces from frame to frame. `crop`: the crop of a track.
`clip`: a clip prepared for all of these. `frame_store`: compact storage of its frames.
"""
