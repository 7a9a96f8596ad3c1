"""The goldens' rule under the name that tests know; it lives in `ovi_eval.check.generated`."""

from ovi_eval.check.generated import PIECE, clip, gaussian, hashed, published_keys, tensor, wave, weights

__all__ = ["PIECE", "clip", "gaussian", "hashed", "published_keys", "tensor", "wave", "weights"]
