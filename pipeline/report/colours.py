"""The colour of every method, the same in figures, charts and tables.

From Okabe and Ito's palette and Brewer's Dark2: told apart by colour-blind eyes.
"""

COLOURS = {
    "zero_shot": "#4d4d4d",
    "zero_shot_own": "#999999",
    "coop": "#009e73",
    "rlp": "#cc79a7",
    "residual": "#8c564b",
    "qcoop": "#e69f00",
    "low_rank_quantized": "#56b4e9",
    "kgcoop": "#a6761d",
    "maple": "#7570b3",
    "qmaple": "#e7298a",
    "compact": "#0072b2",
    "champion": "#d55e00",
}
OTHER = "#b5b5b5"
"""What has no name."""
