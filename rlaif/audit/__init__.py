"""The judge card: how far a feedback model can be trusted as a judge, and which attacks change its
verdicts."""
