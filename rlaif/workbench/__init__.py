"""Constitutions developed like code: checked, tested, compared by what they change, read by several judges."""
