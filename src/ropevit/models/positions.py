"""How position embeddings are called in tables and sentences, and how they look in figures."""

#: How each position embedding is called.
LABELS = {
    "none": "no position embedding",
    "ape": "absolute (APE)",
    "rpb": "relative bias (RPB)",
    "rope_axial": "RoPE-Axial",
    "rope_mixed": "RoPE-Mixed",
    "rope_axial_ape": "RoPE-Axial + APE",
    "rope_mixed_ape": "RoPE-Mixed + APE",
    "rope_axial_rpb": "RoPE-Axial + RPB",
    "rope_mixed_rpb": "RoPE-Mixed + RPB",
    "rope_golden": "RoPE-Golden",
    "rope_spiral": "RoPE-Spiral",
    "rope_simplex": "RoPE-Simplex",
    "rope_polar": "RoPE-Polar",
    "rope_golden_ape": "RoPE-Golden + APE",
    "rope_spiral_ape": "RoPE-Spiral + APE",
    "rope_simplex_ape": "RoPE-Simplex + APE",
    "rope_polar_ape": "RoPE-Polar + APE",
    "rope_golden_rpb": "RoPE-Golden + RPB",
    "rope_spiral_rpb": "RoPE-Spiral + RPB",
    "rope_simplex_rpb": "RoPE-Simplex + RPB",
    "rope_polar_rpb": "RoPE-Polar + RPB",
}

#: Colour and marker of each, the same in every figure; told apart by colour-blind readers too. RPB is a Swin's, and
#: never stands beside APE: what is added to RPB has the colour of the same added to APE.
#: Source of the colours: Okabe and Ito 2008, Color Universal Design.
STYLES = {
    "none": ("#999999", "x"),
    "ape": ("#D55E00", "s"),
    "rpb": ("#E69F00", "s"),
    "rope_axial": ("#0072B2", "^"),
    "rope_mixed": ("#009E73", "o"),
    "rope_axial_ape": ("#56B4E9", "v"),
    "rope_mixed_ape": ("#CC79A7", "D"),
    "rope_axial_rpb": ("#56B4E9", "v"),
    "rope_mixed_rpb": ("#CC79A7", "D"),
    "rope_golden": ("#E69F00", "P"),
    "rope_spiral": ("#000000", "*"),
    "rope_simplex": ("#9467BD", "p"),
    "rope_polar": ("#8C564B", "h"),
    "rope_golden_ape": ("#E69F00", "<"),
    "rope_spiral_ape": ("#000000", ">"),
    "rope_simplex_ape": ("#9467BD", "H"),
    "rope_polar_ape": ("#8C564B", "d"),
    "rope_golden_rpb": ("#E69F00", "<"),
    "rope_spiral_rpb": ("#000000", ">"),
    "rope_simplex_rpb": ("#9467BD", "H"),
    "rope_polar_rpb": ("#8C564B", "d"),
}
