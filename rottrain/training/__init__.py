"""Losses, and the runs that lower them: both latent stages, fine-tuning in words, validation. Judges no benchmark."""
