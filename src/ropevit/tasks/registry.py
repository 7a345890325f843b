"""The registry of tasks: one row per task, which defines its commands, checkpoints, evaluations and reports.

Importing it imports nothing else: the parts of a row are strings `module:name`, imported when they are needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

#: A part of a task: the object itself, or `module:name`, which is imported when it is needed.
Part = Any


@dataclass(frozen=True)
class Metric:
    """The metric by which the best weights are selected."""

    name: str
    """Name in logs and checkpoints, such as top1."""
    higher_is_better: bool = True
    """False for an error, such as RMSE."""
    unit: str = "%"
    """Unit in figures; empty for none."""
    label: str = ""
    """Name in evaluations; `name` if left out."""

    def __post_init__(self):
        object.__setattr__(self, "label", self.label or self.name)

    def is_better(self, score: float, best: float | None) -> bool:
        """Return whether a score is better than the best one so far, if there is one."""
        return best is None or (score > best if self.higher_is_better else score < best)

    def to_dict(self) -> dict[str, Any]:
        """Return its entries in the config of a run: the name, and other fields if they are not the defaults."""
        found: dict[str, Any] = {"metric": self.name}
        if not self.higher_is_better:
            found["metric_higher_is_better"] = False
        if self.unit != "%":
            found["metric_unit"] = self.unit
        return found

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Metric":
        """Build a metric from entries that `to_dict` returned."""
        return cls(
            settings.get("metric") or "top1",
            settings.get("metric_higher_is_better", True),
            settings.get("metric_unit", "%"),
        )


@dataclass(frozen=True)
class PredictOption:
    """An option of `ropevit predict`; None, or False of a flag, where it is not given."""

    type: type[bool] | type[int] | type[float] | type[str]
    help: str
    """In one phrase, with the default."""
    least: float | None = None
    """Smallest value."""
    choices: tuple[str, ...] = ()
    """The values that it may have; empty for any."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """The parts of a task; commands that need a part which is None raise an error.

    Parts are objects, or strings `module:name`.
    """

    noun: str
    """Name of a trained model in messages, such as detector."""
    metric: Metric
    """The metric by which the best weights are selected."""
    recipes: Part
    """Mapping of names, `TASK/RECIPE`, to functions that return a complete training config."""
    config: Part
    """The dataclass of a training config, with the fields `recipe`, `optim` and `run`."""
    train: Part
    """Trains: called with a config and a function that receives events, returns the scores of the last evaluation."""
    evaluate: Part = None
    """Evaluates at several sizes: called with an EvalConfig and a function that receives events, returns the rows."""
    result: Part = None
    """The dataclass of a row of an evaluation; see `ropevit.tasks.evaluation.results.SizeResult`."""
    eval_options: Part = None
    """The dataclass of options of `ropevit eval` that only this task has."""
    eval_refused: Mapping[str, str] = field(default_factory=dict)
    """Options of `ropevit eval` that this task does not have, and why."""
    baselines: tuple[str, ...] = ()
    """Other inference modes that its evaluation offers: see `ropevit.tasks.evaluation.inference_modes`."""
    tune: Part = None
    """Opens a model for `ropevit tune-scaling`: called with a TuneConfig and an EvalContext, returns a
    `ropevit.tasks.evaluation.tune_scaling.TuneTarget`."""
    predict: Part = None
    """Opens a model for `ropevit predict`: called with file, folder and device, and the options that are given as
    keywords; returns a `ropevit.tasks.predictions.Predictor`, whose `notes`, if it has any, are printed."""
    predict_options: Mapping[str, PredictOption] = field(default_factory=dict)
    """Options of `ropevit predict` that this task reads, besides the size; tasks may share one."""
    predict_files: Part = ()
    """Names of files and folders that it writes beside the images."""
    export: Part = None
    """Opens a model for `ropevit export`: called with its file and, if given, `scaling` as a keyword (if that is one of
    its `predict_options`); returns a `ropevit.models.exportable.ExportModel`."""
    step_spec: Part = None
    """Describes a training step, for --estimate and the line about the model: called with a config and the number of
    classes (None or left out: those of the published data), returns a StepSpec."""
    recipe_facts: Part = None
    """Columns of `train --list`: called with a config, returns strings by `pixels`, `expected` and `cost`."""
    load: Part = None
    """Loads a file: called with a path, returns the model first."""
    formats: tuple[str, ...] = ()
    """Values of "format" in the headers of its files."""
    pipeline_tag: str | None = None
    """What the Hugging Face hub calls the task, such as image-classification; None if it has no name there."""
    flat_options: bool = False
    """Whether options of `ropevit train` have no group prefix: --lr for --optim.lr."""

    def get(self, part: str) -> Any:
        """Return a part, importing it if needed.

        Raises:
            ValueError: If the task does not have it.
        """
        value = getattr(self, part)
        if value is None:
            raise ValueError(f"a {self.noun} has no {part.replace('_', ' ')}; add {part}= to the TaskSpec of its task")
        if isinstance(value, str):
            module, name = value.split(":")
            return getattr(import_module(module), name)
        return value


#: The task of files that are not ours, and of recipes without a task in their name.
CLASSIFY = "classify"

_CLASSIFY, _DETECT, _SEGMENT = (f"ropevit.tasks.{name}" for name in ("classify", "detect", "segment"))
_KNOWS_ITS_MODEL = "its file holds the config of its model"

#: Inference modes for an image larger than those of the training; see `ropevit.tasks.evaluation.inference_modes`.
MODES = ("whole", "tiles", "resize")
_SCALING = PredictOption(
    str,
    "RoPE scaling methods for images larger than in training, such as ntk or parts+log; none disables the model's own; "
    "auto is what `ropevit tune-scaling` chose",
)

#: Every task by name.
TASKS: dict[str, TaskSpec] = {
    CLASSIFY: TaskSpec(
        noun="classifier",
        metric=Metric("top1", label="top-1"),
        recipes=f"{_CLASSIFY}.recipes:RECIPES",
        config=f"{_CLASSIFY}.config:TrainConfig",
        train=f"{_CLASSIFY}.train:train",
        evaluate=f"{_CLASSIFY}.evaluate:evaluate",
        tune=f"{_CLASSIFY}.tune_scaling:open_target",
        result=f"{_CLASSIFY}.evaluate:ClassifierResult",
        eval_options=f"{_CLASSIFY}.evaluate:ClassifierOptions",
        baselines=MODES[1:],
        predict_options={
            "model": PredictOption(
                str,
                "name (see `ropevit models`), or a variant such as deit_small (with its original position embedding); "
                "loads the published weights unless --checkpoint is given",
            ),
            "keep_aspect": PredictOption(bool, "keep the aspect ratio of each image instead of taking a center crop"),
            "scaling": _SCALING,
            "inference_mode": PredictOption(
                str,
                "how an image of --size is predicted: whole (default), in tiles of the training size, whose "
                "probabilities are averaged, or after a resize to it",
                choices=MODES,
            ),
            "features": PredictOption(
                bool,
                "write patch tokens on their grid, class and register tokens and the pooled vector of each image to a "
                ".safetensors file in --out (default: features), instead of classes",
            ),
            "topk": PredictOption(int, "number of classes to print (default: 5)", least=1),
            "batch_size": PredictOption(int, "images per batch (default: 32)", least=1),
            "workers": PredictOption(int, "DataLoader workers (default: 4, or 0 for fewer than 64 images)", least=0),
        },
        step_spec=f"{_CLASSIFY}.estimate:step_spec",
        recipe_facts=f"{_CLASSIFY}.recipes:recipe_facts",
        load="ropevit.weights.saving:load_model",
        formats=("ropevit",),
        pipeline_tag="image-classification",
        flat_options=True,
    ),
    "detect": TaskSpec(
        noun="detector",
        metric=Metric("AP"),
        recipes=f"{_DETECT}.recipes:RECIPES",
        config=f"{_DETECT}.train_config:DetectTrainConfig",
        train=f"{_DETECT}.train:train",
        evaluate=f"{_DETECT}.evaluate:evaluate",
        result=f"{_DETECT}.evaluate:DetectorResult",
        eval_options=f"{_DETECT}.evaluate:DetectorOptions",
        eval_refused={
            "model": _KNOWS_ITS_MODEL,
            "scaling": "a detector is trained at many sizes, most of its blocks in windows, so no one grid is the "
            "reference for RoPE scaling",
        },
        baselines=MODES[1:],
        predict=f"{_DETECT}.predict:open_predictor",
        predict_options={
            "inference_mode": PredictOption(
                str,
                "how an image of --size is predicted: whole (default), in overlapping tiles of the training size, "
                "whose boxes are merged, or after a resize to it",
                choices=MODES,
            ),
            "topk": PredictOption(int, "maximum detections per image (default: 100)", least=1),
            "threshold": PredictOption(float, "minimum score of a detection, from 0 to 1 (default: 0.3)"),
        },
        predict_files=("detections.json",),
        export=f"{_DETECT}.export:open_export",
        step_spec=f"{_DETECT}.estimate:step_spec",
        recipe_facts=f"{_DETECT}.recipes:recipe_facts",
        load=f"{_DETECT}.model:load_detector",
        formats=("ropevit-detector",),
        pipeline_tag="object-detection",
    ),
    "segment": TaskSpec(
        noun="segmenter",
        metric=Metric("mIoU"),
        recipes=f"{_SEGMENT}.recipes:RECIPES",
        config=f"{_SEGMENT}.train_config:SegmentTrainConfig",
        train=f"{_SEGMENT}.train:train",
        evaluate=f"{_SEGMENT}.evaluate:evaluate",
        tune=f"{_SEGMENT}.tune_scaling:open_target",
        result=f"{_SEGMENT}.evaluate:SegmenterResult",
        eval_options=f"{_SEGMENT}.evaluate:SegmenterOptions",
        eval_refused={"model": _KNOWS_ITS_MODEL, "batch_size": "a segmenter takes images one by one"},
        baselines=MODES[1:],
        predict=f"{_SEGMENT}.predict:open_predictor",
        predict_options={
            "scaling": _SCALING,
            "inference_mode": PredictOption(
                str,
                "how an image of --size is predicted: whole, in adjacent tiles of the training size, or after a "
                "resize to it (default: whole or in sliding windows, as the model's file says)",
                choices=MODES,
            ),
        },
        predict_files=("labels", "classes.txt"),
        export=f"{_SEGMENT}.export:open_export",
        step_spec=f"{_SEGMENT}.estimate:step_spec",
        recipe_facts=f"{_SEGMENT}.recipes:recipe_facts",
        load=f"{_SEGMENT}.model:load_segmenter",
        formats=("ropevit-segmenter",),
        pipeline_tag="image-segmentation",
    ),
}


def register_task(name: str, spec: TaskSpec) -> None:
    """Add a task, such as one of another package; its recipes are `NAME/RECIPE`.

    Raises:
        ValueError: If the name is taken or not a word, or another task has one of its file formats.
    """
    if name in TASKS or not name.isidentifier():
        raise ValueError(f"got the task {name!r}; expected an identifier other than {', '.join(TASKS)}")
    if taken := {known for other in TASKS.values() for known in other.formats} & set(spec.formats):
        raise ValueError(f"got the file format {min(taken)!r}, which another task has; choose another one")
    known = {option: row.type for task in TASKS.values() for option, row in task.predict_options.items()}
    if differing := [o for o, row in spec.predict_options.items() if known.get(o, row.type) is not row.type]:
        raise ValueError(
            f"got the predict option {differing[0]!r}, which another task has with another type; rename it"
        )
    TASKS[name] = spec


def task_of_result(row_type: type) -> str | None:
    """Return the name of the task whose evaluations have such rows; None if there is none."""
    place = f"{row_type.__module__}:{row_type.__qualname__}"
    return next((name for name, task in TASKS.items() if task.result in (row_type, place)), None)


def task_of_recipe(recipe: str) -> TaskSpec | None:
    """Return the task of a recipe name, the part before the slash; None if there is no such task."""
    return TASKS.get(recipe.split("/")[0] if "/" in recipe else CLASSIFY)


def task_of_format(file_format: str) -> TaskSpec:
    """Return the task of a file by "format" in its header; files of others are assumed to be a classifier's."""
    return next((task for task in TASKS.values() if file_format in task.formats), TASKS[CLASSIFY])
