"""What turns a caption into the vectors that the towers attend to."""

from ovi_lab.text.learned import LearnedText
from ovi_lab.text.separate import SeparateText
from ovi_lab.text.stored import StoredText
from ovi_lab.text.umt5 import UMT5Text

__all__ = ["LearnedText", "SeparateText", "StoredText", "UMT5Text"]
