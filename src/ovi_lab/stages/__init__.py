"""The paper's three stages one after the other on the ball world, from nothing to an exported model."""
