"""Choice of a scaling method for classifiers: counts which images are classified correctly with each."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ropevit.data.augment import eval_transform
from ropevit.data.loading import eval_batches
from ropevit.data.subset import ImageSubset
from ropevit.models.architectures import Model
from ropevit.models.rotary import set_scaling
from ropevit.rope.scaling import parse_override
from ropevit.tasks.classify.evaluate import (
    BATCH,
    ClassifierOptions,
    EvalInputs,
    classifier,
    prepare,
    protocol_of,
    views_of,
)
from ropevit.tasks.classify.protocol import View
from ropevit.tasks.evaluation.loop import EvalContext
from ropevit.tasks.evaluation.passes import Codec
from ropevit.tasks.evaluation.results import hash_weights
from ropevit.tasks.evaluation.scaling_search import NONE, accuracy
from ropevit.tasks.evaluation.tune_scaling import TuneConfig, TuneTarget

#: Character of an image in the record: wrong, right, unreadable.
_WRONG, _RIGHT, _UNREAD = "01-"


def open_target(config: TuneConfig, context: EvalContext) -> TuneTarget:
    """Open a classifier and its images.

    Raises:
        ValueError: If an option is for segmenters, the model has no RoPE, or scaling would change nothing at a size.
    """
    if config.whole:
        raise ValueError("got --whole with a classifier; it is for segmenters: leave it out")
    options = ClassifierOptions(protocol=config.protocol, crop_pct=config.crop_pct)
    inputs = _with_trained_grid(prepare(replace(context, config=replace(context.config, options=options))))
    eval_model = inputs.eval_model
    return TuneTarget(
        name=eval_model.name,
        weights=str(eval_model.parsed.source),
        fingerprint=hash_weights(eval_model.parsed.state),
        source=inputs.source,
        count=CorrectPredictions(inputs, _plan(inputs, config.sizes, options)),
        codec=Codec(encode_marks, decode_marks),
        score=accuracy,
        baseline=eval_model.config.scaling or NONE,
        settings={"protocol": protocol_of(eval_model, options.protocol, options.crop_pct), "crop": options.crop_pct},
        verbs=("eval", "predict", "probe", "export"),
    )


class CorrectPredictions:
    """Counts correct and all predictions (M, n, 2) of each image.

    Args:
        inputs: Model and data.
        views: Preprocessing at each size.
    """

    def __init__(self, inputs: EvalInputs, views: Sequence[View]):
        self.inputs, self.views = inputs, {view.size: view for view in views}
        self.built: dict[int, Model] = {}

    def __call__(
        self, size: int, scalings: Sequence[str], images: ImageSubset, progress: Callable[[int], None]
    ) -> Tensor:
        """Read the images once, and classify them with every method."""
        view, config = self.views[size], self.inputs.context.config
        counts = torch.zeros(len(scalings), len(images), 2, dtype=torch.int64)
        model = self._model(view)
        logits_of = classifier(model, self.inputs)
        transform = eval_transform(view.size, view.crop, view.squash)
        for batch in eval_batches(images, transform, config.batch_size or BATCH, config.workers):
            places = torch.tensor(list(batch.indices), dtype=torch.long)
            if not len(places):
                continue
            for row, scaling in enumerate(scalings):
                set_scaling(model, parse_override(scaling))
                best = logits_of(batch.images).float().argmax(1).cpu()
                counts[row, places] = torch.stack([best == batch.labels, torch.ones_like(best).bool()], 1).long()
            progress(int(places.max()) + 1)
        return counts

    def _model(self, view: View) -> Model:
        """Build the model for a size; one at a time is kept."""
        if view.size not in self.built:
            self.built.clear()
            eval_model = self.inputs.eval_model
            self.built[view.size] = eval_model.build(view.config_at(eval_model.config)).to(self.inputs.context.device)
        return self.built[view.size]


def encode_marks(counts: Tensor) -> str:
    """Write counts (n, 2) as one character per image: 1 for a correct prediction, 0 for a wrong one, - for none."""
    return "".join((_RIGHT if right else _WRONG) if seen else _UNREAD for right, seen in counts.tolist())


def decode_marks(text: object) -> Tensor:
    """Read what `encode_marks` wrote.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(text, str) or {*text} - {_WRONG, _RIGHT, _UNREAD}:
        raise ValueError("it holds no images")
    return torch.tensor([(mark == _RIGHT, mark != _UNREAD) for mark in text], dtype=torch.int64).view(-1, 2)


def _with_trained_grid(inputs: EvalInputs) -> EvalInputs:
    """Fix the grid of the training as the reference of scaling, before the model is built for other sizes.

    Raises:
        ValueError: If the model has no RoPE.
    """
    eval_model = inputs.eval_model
    if eval_model.config.rope is None:
        raise ValueError(
            f"got {eval_model.name} with the position embedding {eval_model.config.position}; RoPE scaling needs a "
            "model with RoPE"
        )
    grid = eval_model.config.trained_grid or eval_model.config.attention_grid
    return replace(inputs, eval_model=replace(eval_model, config=replace(eval_model.config, trained_grid=grid)))


def _plan(inputs: EvalInputs, sizes: tuple[int, ...], options: ClassifierOptions) -> list[View]:
    """Return the preprocessing at each size.

    Raises:
        ValueError: If scaling would change nothing at a size.
    """
    eval_model = inputs.eval_model
    views = views_of(eval_model, sizes, options.protocol, options.crop_pct)
    for view in views:
        if view.size <= eval_model.trained_at:
            raise ValueError(
                f"got size {view.size} for a model trained at {eval_model.trained_at} px; RoPE scaling is for larger "
                f"sizes, such as {2 * eval_model.trained_at}"
            )
        if (
            view.window is not None
            and view.config_at(eval_model.config).attention_grid == eval_model.config.trained_grid
        ):
            raise ValueError(
                f"got size {view.size}, at which windows are as large as in training, so that RoPE scaling changes "
                "nothing; give --protocol paper, or a larger size"
            )
    return views
