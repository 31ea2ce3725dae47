"""METEOR 1.5 for English in pure Python, equal to the Java program that coco-caption runs.

A caption is normalised (normalizer.py), and its words and phrases are looked up (words.py, stemmer.py; table.py,
paraphrases.py). Matchers find possible matches (matches.py), an aligner selects among them (aligner.py), and the metric
counts and scores (metric.py). The data comes from an installed pycocoevalcap (data.py).
"""

from __future__ import annotations

from captionkit.metrics.meteor.data import data_missing
from captionkit.metrics.meteor.metric import Meteor

__all__ = ["Meteor", "data_missing"]
