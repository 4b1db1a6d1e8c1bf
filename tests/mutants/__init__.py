"""Deliberate faults in the wiring and in the figures, and the tests that have to notice each: `make mutants`."""
