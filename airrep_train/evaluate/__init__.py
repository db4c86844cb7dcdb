"""Evaluation: measured losses or known rows as ground truth, scorers, baselines, measures with intervals."""

from typing import TYPE_CHECKING

from airrep_infer.lazy_import import lazy_door
from airrep_train.evaluate.known import KnownOptions
from airrep_train.evaluate.options import (
    BY_GRADIENTS,
    GRADIENT_QUERIES,
    LEXICAL,
    OF_TEXTS,
    EvaluateOptions,
    Pooling,
)

if TYPE_CHECKING:
    from airrep_train.evaluate.baselines import LexicalScorer, parse_spec
    from airrep_train.evaluate.calibration import calibrate, calibration_of, typical_fall
    from airrep_train.evaluate.chosen_on import hash_content, selection_of
    from airrep_train.evaluate.embeddings import Embedded, embed_lines, is_bundle
    from airrep_train.evaluate.evaluation import evaluate
    from airrep_train.evaluate.given_scores import FileScorer, open_scores
    from airrep_train.evaluate.known import KnownTruth, truth_from_known
    from airrep_train.evaluate.lds import query_lds
    from airrep_train.evaluate.methods import Compared
    from airrep_train.evaluate.query_scorer import gradient_queries
    from airrep_train.evaluate.ranking import RankingEvaluation, evaluate_known
    from airrep_train.evaluate.response_tfidf import response_words
    from airrep_train.evaluate.result import Evaluation
    from airrep_train.evaluate.scorers import Scorer, VectorScorer
    from airrep_train.evaluate.truth import Truth, truth_from_labels, truth_from_lds

__all__ = [
    "BY_GRADIENTS",
    "GRADIENT_QUERIES",
    "LEXICAL",
    "OF_TEXTS",
    "Compared",
    "Embedded",
    "EvaluateOptions",
    "Evaluation",
    "FileScorer",
    "KnownOptions",
    "KnownTruth",
    "LexicalScorer",
    "Pooling",
    "RankingEvaluation",
    "Scorer",
    "Truth",
    "VectorScorer",
    "calibrate",
    "calibration_of",
    "embed_lines",
    "evaluate",
    "evaluate_known",
    "gradient_queries",
    "hash_content",
    "is_bundle",
    "open_scores",
    "parse_spec",
    "query_lds",
    "response_words",
    "selection_of",
    "truth_from_known",
    "truth_from_labels",
    "truth_from_lds",
    "typical_fall",
]

__getattr__ = lazy_door(
    __name__,
    {
        "Compared": "methods",
        "Embedded": "embeddings",
        "Evaluation": "result",
        "FileScorer": "given_scores",
        "KnownTruth": "known",
        "LexicalScorer": "baselines",
        "RankingEvaluation": "ranking",
        "Truth": "truth",
        "Scorer": "scorers",
        "VectorScorer": "scorers",
        "calibrate": "calibration",
        "calibration_of": "calibration",
        "embed_lines": "embeddings",
        "evaluate": "evaluation",
        "evaluate_known": "ranking",
        "gradient_queries": "query_scorer",
        "hash_content": "chosen_on",
        "is_bundle": "embeddings",
        "open_scores": "given_scores",
        "parse_spec": "baselines",
        "query_lds": "lds",
        "response_words": "response_tfidf",
        "selection_of": "chosen_on",
        "truth_from_known": "known",
        "truth_from_labels": "truth",
        "truth_from_lds": "truth",
        "typical_fall": "calibration",
    },
)
