"""Caption metrics without Java, equal to coco-caption's and vectorised over whole corpora.

    scores = captionkit.evaluate({"42": "a dog runs"}, {"42": ["A dog is running.", "The dog runs on grass."]})
    print(scores)                 # a table with confidence intervals
    scores["CIDEr-D"], scores.per_image["CIDEr-D"]

A metric is a small class with `update`, `compute` and `reset` (see metric.py), usable in a training loop on tokens of
any kind.
"""

from __future__ import annotations

from captionkit.metrics.bleu import Bleu
from captionkit.metrics.chair import Chair, objects_invented, objects_named
from captionkit.metrics.cider import Cider, CiderD
from captionkit.metrics.diversity import Diversity, Variety
from captionkit.metrics.document_frequencies import DocumentFrequencies
from captionkit.metrics.evaluation import METRICS, USUAL, evaluate
from captionkit.metrics.evaluation_module import EvaluationModule, load
from captionkit.metrics.meteor import Meteor
from captionkit.metrics.metric import Metric, MetricResult
from captionkit.metrics.ptb import tokenize, tokenize_all
from captionkit.metrics.rouge import RougeL
from captionkit.metrics.scores import Comparison, Scores
from captionkit.metrics.spice import Spice

__all__ = [
    "METRICS",
    "USUAL",
    "Bleu",
    "Chair",
    "Cider",
    "CiderD",
    "Comparison",
    "Diversity",
    "DocumentFrequencies",
    "EvaluationModule",
    "Meteor",
    "Metric",
    "MetricResult",
    "RougeL",
    "Scores",
    "Spice",
    "Variety",
    "evaluate",
    "load",
    "objects_invented",
    "objects_named",
    "tokenize",
    "tokenize_all",
]
