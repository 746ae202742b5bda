"""Pure measures: whether answers are equal, intervals of shares, the geometry of latents. Knows no model."""
