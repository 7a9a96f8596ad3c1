"""What turns a caption into the vectors that both towers attend to."""

from ovi_lab.text.learned import LearnedText

__all__ = ["LearnedText"]
