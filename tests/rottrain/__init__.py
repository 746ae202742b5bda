"""Tests of rottrain, one module each."""
