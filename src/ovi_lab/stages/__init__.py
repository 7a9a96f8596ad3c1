"""The paper's three training stages in sequence on the ball world, from random weights to an exported model."""
