"""How reliable each annotator is, where no truth is known: the model of Dawid and Skene.

Axes: I items, A annotators, C categories.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from rlaif.agreement.coefficients import MISSING, Ratings
from rlaif.intervals import Array

STEPS, PRIOR, STILL = 200, 0.5, 1e-6  # iterations; ratings thought added to each cell; change that ends it


class Reliability(TypedDict):
    """`confusion_ACC`: probabilities of an annotator's category given the true one; `accuracy_A`: of being
    right; `truth_IC`: of each item's true category; `shares_C`: of the true categories."""

    confusion_ACC: Array
    accuracy_A: Array
    truth_IC: Array
    shares_C: Array


def dawid_skene(ratings_IA: Ratings, categories: int) -> Reliability:
    """Maximum likelihood by expectation and maximisation (Dawid and Skene, Applied Statistics 28, 1979).

    It begins with each item's shares of ratings. `PRIOR` ratings are thought added to each cell of an
    annotator's table, spread as all annotators' are, so that few ratings make no certainty. The model takes
    annotators' mistakes as independent given the truth: annotators who share mistakes are taken for reliable.
    Below three annotators it says little.
    """
    said_IAC = (ratings_IA[:, :, None] == np.arange(categories)).astype(float)
    truth_IC = said_IAC.sum(1) / np.maximum((ratings_IA != MISSING).sum(1), 1)[:, None]
    shares, confusion = np.empty(categories), np.empty(0)
    for _ in range(STEPS):
        shares = (truth_IC.mean(0) + 1e-12) / (1 + categories * 1e-12)
        counts_ACC = np.einsum("ic,iad->acd", truth_IC, said_IAC)
        pooled = counts_ACC.sum(0) + PRIOR
        counts_ACC = counts_ACC + PRIOR * categories * pooled / pooled.sum(1, keepdims=True)
        confusion = counts_ACC / counts_ACC.sum(2, keepdims=True)
        log_p = np.log(shares) + np.einsum("iad,acd->ic", said_IAC, np.log(confusion))
        p = np.exp(log_p - log_p.max(1, keepdims=True))
        before, truth_IC = truth_IC, p / p.sum(1, keepdims=True)
        if np.abs(truth_IC - before).max(initial=0) < STILL:
            break
    right = np.einsum("c,acc->a", shares, confusion)
    return {"confusion_ACC": confusion, "accuracy_A": right, "truth_IC": truth_IC, "shares_C": shares}
