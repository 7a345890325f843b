"""Linear probe: multinomial logistic regression of features, with the L2 penalty chosen on a part of the training."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ropevit.data.rng import make_generator

#: Candidates for the weight of the penalty, strongest first.
PENALTIES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
#: Fraction of each class that is held out to choose the penalty.
HELD_OUT = 0.2
#: Maximum iterations of L-BFGS for each candidate; each starts from the solution of the previous one.
ITERATIONS = 1000


class LinearProbe(NamedTuple):
    """A fitted classifier of features, and the penalty that was chosen."""

    weight: Float[Tensor, "K C"]
    bias: Float[Tensor, "K"]
    mean: Float[Tensor, "C"]
    """Mean of each feature in training, subtracted before."""
    std: Float[Tensor, "C"]
    """Standard deviation of each feature in training, by which it is divided."""
    penalty: float
    iterations: int
    """Iterations of L-BFGS from the solution of the next stronger penalty."""
    converged: bool
    """Whether it stopped by its tolerance, not by the maximum number of iterations."""

    def logits(self, features: Float[Tensor, "*m C"]) -> Float[Tensor, "*m K"]:
        """Return the logits of features."""
        return F.linear((features.float() - self.mean) / self.std, self.weight, self.bias)

    def predict(self, features: Float[Tensor, "m C"]) -> Int[Tensor, "m"]:
        """Return the class of each."""
        return self.logits(features).argmax(1)


def linear_probe(
    features: Float[Tensor, "n C"],
    labels: Int[Tensor, "n"],
    num_classes: int,
    seed: int = 0,
    watch: Callable[[int, int], None] = lambda *_: None,
) -> LinearProbe:
    """Fit a linear classifier of standardized features by L-BFGS: mean cross-entropy and an L2 penalty on the weights.

    Minimized is the mean cross-entropy plus half the penalty times the sum of the squared weights.

    The penalty with the highest accuracy on a held-out fifth of each class is taken (the stronger one of equals), and
    the classifier is fitted again to all images with it.

    Args:
        features: Features of the training images.
        labels: Their classes.
        num_classes: Number of classes, K.
        seed: Seed of the held-out images.
        watch: Called with the number of fits that are done, and of all.

    Raises:
        ValueError: If no class has two images, so that none can be held out.

    Source: the protocol of linear probes of Radford et al. 2021 (arXiv:2103.00020), appendix A.3: L-BFGS, and a
    penalty chosen on a validation split.
    """
    held = hold_out(labels, num_classes, seed)
    if not held.any():
        raise ValueError(
            f"got {len(labels)} training images of {num_classes} classes, none with two images; a linear probe needs "
            "at least two of a class"
        )
    return fit_probe(features, labels, num_classes, held, watch=watch)


#: Returns the score of predicted and true labels.
Score = Callable[[Tensor, Tensor], float]


def label_accuracy(predicted: Int[Tensor, "m"], labels: Int[Tensor, "m"]) -> float:
    """Return the fraction of correct predictions."""
    return (predicted == labels).float().mean().item()


def fit_probe(
    features: Float[Tensor, "n C"],
    labels: Int[Tensor, "n"],
    num_classes: int,
    held: Bool[Tensor, "n"],
    score: Score = label_accuracy,
    watch: Callable[[int, int], None] = lambda *_: None,
) -> LinearProbe:
    """Fit a linear classifier as `linear_probe` does.

    Args:
        features: Features in training.
        labels: Their classes.
        num_classes: Number of classes, K.
        held: Which of them choose the penalty.
        score: Score of held-out predictions, which the penalty is to maximize.
        watch: Called with the number of fits that are done, and of all.
    """
    total, scores = 2 * len(PENALTIES), []
    for probe in _fit(features[~held], labels[~held], num_classes, PENALTIES):
        scores.append(score(probe.predict(features[held]), labels[held]))
        watch(len(scores), total)
    best = max(range(len(scores)), key=lambda place: scores[place])
    fits = []
    for probe in _fit(features, labels, num_classes, PENALTIES[: best + 1]):
        fits.append(probe)
        watch(len(PENALTIES) + len(fits) if len(fits) <= best else total, total)
    return fits[-1]


def hold_out(labels: Int[Tensor, "n"], num_classes: int, seed: int) -> Tensor:
    """Return which images are held out: a fifth of each class, at least one of a class with two or more."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    known = labels.cpu()
    for label in range(num_classes):
        places = (known == label).nonzero().squeeze(1)
        count = max(1, round(HELD_OUT * len(places))) if len(places) > 1 else 0
        order = torch.randperm(len(places), generator=make_generator("probe", "held out", seed, label))
        held[places[order[:count]]] = True
    return held.to(labels.device)


def _fit(
    features: Float[Tensor, "n C"], labels: Int[Tensor, "n"], num_classes: int, penalties: tuple[float, ...]
) -> Iterator[LinearProbe]:
    """Yield a classifier for each penalty, each fitted from the solution of the previous one."""
    x = features.float()
    mean, std = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x = (x - mean) / std
    weight = x.new_zeros(num_classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(num_classes, requires_grad=True)
    for penalty in penalties:
        iterations, converged = _minimize(x, labels, (weight, bias), penalty)
        yield LinearProbe(weight.detach().clone(), bias.detach().clone(), mean, std, penalty, iterations, converged)


@torch.enable_grad()
def _minimize(
    x: Float[Tensor, "n C"], labels: Int[Tensor, "n"], parameters: tuple[Tensor, Tensor], penalty: float
) -> tuple[int, bool]:
    """Minimize the loss in place, and return the iterations and whether they converged."""
    weight, bias = parameters
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=ITERATIONS, max_eval=2 * ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    state = optimizer.state[weight]
    return state["n_iter"], state["n_iter"] < ITERATIONS and state["func_evals"] < 2 * ITERATIONS
