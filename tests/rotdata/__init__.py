"""Tests of rotdata, one module a module."""
