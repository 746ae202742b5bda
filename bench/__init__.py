"""Benchmarks: each figure measures ours and a baseline in one run and prints their ratio. `python -m bench [NAME ...]`.

A baseline is what a competent person would write first: same weights, type, threads, attention kernel and inputs;
models and fonts loaded once; no gradients where nothing trains; warm-up not counted. A ratio above 1 means that ours is
faster.
"""
