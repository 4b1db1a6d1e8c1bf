"""The judge and the use of its verdicts: preferences, gold, revisions, labels of earlier runs."""
