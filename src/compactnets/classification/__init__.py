"""Labelled images: training, evaluating and using classifiers."""
