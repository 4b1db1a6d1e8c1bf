"""rlaif: from a constitution file to an aligned language model, and the evidence that it worked."""

__version__ = "0.1.0"
