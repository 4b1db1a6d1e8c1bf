"""Constitutions developed like code: linted, tested, compared by their effect, read by several judges."""
