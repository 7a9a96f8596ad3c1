"""Untrusted files, mutated by the hundred: each ends in one clean line, in a reason or in a valid result.

python -m tests.fuzz --cases 300 --seed 7                          # every kind, by hand
python -m tests.fuzz --kinds media --cases 1 --first 137           # one case again
python -m tests.fuzz --tree OTHER_CHECKOUT --cases 300             # the same cases against other code
"""
