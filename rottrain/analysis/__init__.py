"""What latents hold and whether answers rest on them: probes, traces, calibration, pages. Trains nothing."""
