"""What turns a caption into the vectors that both towers attend to."""

from ovi_lab.text.learned import LearnedText
from ovi_lab.text.stored import StoredText
from ovi_lab.text.umt5 import UMT5Text

__all__ = ["LearnedText", "StoredText", "UMT5Text"]
