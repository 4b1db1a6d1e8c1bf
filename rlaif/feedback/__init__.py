"""The judge, and what becomes of its verdicts: preferences, gold, revisions, labels of earlier runs."""
