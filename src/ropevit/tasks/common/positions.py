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
}
