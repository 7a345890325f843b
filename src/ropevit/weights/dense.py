"""Initializes the backbone of a dense task from a classifier's checkpoint."""

from dataclasses import replace

import torch
from torch import nn

from ropevit.models.architectures import build_model
from ropevit.models.backbone import Backbone
from ropevit.weights.loading import load_all_or_nothing, unwrap_model
from ropevit.weights.match import HEAD, LoadReport, check_implied, match_state_dict
from ropevit.weights.parse import parse_checkpoint
from ropevit.weights.reading import Source, read_checkpoint

_UNUSED = "of the classifier; the backbone does without it"


def load_dense_weights(
    model: nn.Module,
    source: Source,
    *,
    ema: bool = False,
    grid: tuple[int, int] | None = None,
    revision: str | None = None,
) -> LoadReport:
    """Load a classifier's weights into a backbone, as strictly as `load_weights`.

    Class token, registers, head and, unless the backbone uses it, final norm are dropped and listed; an absolute
    embedding of another grid and biases of another window are resized; learned frequencies are kept. The pyramid, or
    the norms of a Swin's maps, stay as they are and are listed as new.

    >>> print(load_dense_weights(backbone, "rope_mixed_deit_base_patch16_LS"))

    Args:
        model: A dense backbone, such as a `DenseViT`, also compiled or wrapped for distributed training.
        source: Path, hub id, published model name, or state dict of a classifier with the backbone's `config.body`.
        ema: Load the EMA weights that a training script stored beside the weights.
        grid: Rows and columns of the source's absolute embedding; None for those in the file's config, or a square.
        revision: Branch, tag or commit on the hub.

    Raises:
        WeightsError: If the source cannot be read or does not match; the backbone is then unchanged.
    """
    backbone = unwrap_model(model, Backbone, "DenseViT or a DenseSwin, or another dense backbone")
    parsed = parse_checkpoint(read_checkpoint(source, revision), ema)
    check_implied(backbone.config.body, parsed)
    with torch.device("meta"):  # only names and shapes matter
        classifier = build_model(replace(backbone.config.body, num_classes=0))
    state, report = match_state_dict(classifier, parsed, replace_head=True, grid=grid)
    own = backbone.body.state_dict()
    unused = [name for name in HEAD if name in report.dropped] + [name for name in state if name not in own]
    state = {name: value for name, value in state.items() if name in own}
    load_all_or_nothing(backbone.body, state, parsed.source)
    new = tuple(name for name in backbone.state_dict() if name.removeprefix("body.") not in state)
    dropped = {**report.dropped, **dict.fromkeys(unused, _UNUSED)}
    return replace(report, loaded=len(state), dropped=dropped, head_replaced=False, new=new)
