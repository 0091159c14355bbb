"""What the pages call metrics, and by what they break them down."""

from __future__ import annotations

TABLES = (
    ("by_anomaly", "Anomaly"),
    ("by_class", "Class"),
    ("by_step", "Protocol step"),
    ("by_view", "Camera view"),
    ("by_context", "What the question says of the check"),
    ("by_question", "Type of question"),
    ("by_lang", "Language"),
)
TABLE_METRICS = ("accuracy", "miss_rate", "miss_rate_at_5", "false_stop_rate")
METRIC_WORDS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "miss_rate": "Miss rate",
    "miss_rate_at_5": "Miss rate at 5% false stops",
    "false_stop_rate": "False-stop rate",
    "unparsed_rate": "Unparsed answers",
    "order_consistency": "Same answer in both orders",
    "pair_accuracy": "Both orders right",
    "share_a": "Answers that are A",
    "gold_share_a": "Gold answers that are A",
    "substring_accuracy": "Accuracy by substring (source lab)",
    "substring_agreement": "Substring agrees with strict",
    "brier": "Brier score",
    "ece": "Calibration error",
    "letter_mass": "Probability on A or B",
    "exact_match": "Exact match",
    "token_f1": "Token F1",
    "statement_f1": "Statement F1",
    "contradictions": "Contradicts its own verdict",
    "names_anomaly_says_normal": "Names an anomaly, says normal",
    "says_anomaly_names_none": "Says anomaly, names none",
}
