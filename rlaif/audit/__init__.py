"""The judge card: how far a feedback model can be trusted as a judge, and what can talk it round."""
