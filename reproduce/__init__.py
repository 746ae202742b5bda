"""The paper in miniature, and its corpus of real words."""
