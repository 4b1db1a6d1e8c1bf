"""A small world with a known truth: grammar, gold scorer, simulated annotators and two shipped models."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
POLICY = WEIGHTS / "policy"
FEEDBACK = WEIGHTS / "feedback"
