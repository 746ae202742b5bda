"""Latents and tokens, one after another: rollouts for training and use, decoding, answers. Knows no losses."""
