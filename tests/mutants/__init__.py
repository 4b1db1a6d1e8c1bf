"""Faults put into the wiring and the figures, and the tests that have to notice each: `make mutants`."""
