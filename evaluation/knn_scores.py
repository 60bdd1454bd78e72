"""The weighted k-NN classifier of Wu et al. (2018), as in DINO's and DINOv2's code.

"Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section 3.4; eval_knn.py of
facebookresearch/dino and dinov2/eval/knn.py of facebookresearch/dinov2: each of the k most similar training samples
votes for its class with weight exp(cosine similarity / temperature). DINOv2 divides the weights by their sum, which
changes no winner.
"""

import numpy as np
from numpy.typing import NDArray

POOLING = "mean of the CLS tokens of frames, each a center crop: frame-pooled, not an attentive probe"
"""What a sample's feature is, for results."""
_CHUNK = 4096


def classify(
    rows: NDArray[np.integer], similarity: NDArray[np.float64], label: NDArray[np.int64], temperature: float
) -> NDArray[np.int64]:
    """Class (n,) with the most votes of the neighbours; the smallest number where several have as many.

    Args:
        rows: (n, k) training samples, most similar first; samples that are equally similar in the order of their rows.
        similarity: (n, k) cosine similarities.
        label: (N,) class of each training sample, from 0.
        temperature: the smaller, the more the nearest count.

    Votes are summed in float64 in the order of the neighbours.
    """
    predicted = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        weight = np.exp(similarity[part] / temperature)
        votes = np.zeros((len(weight), int(label.max()) + 1))
        for column in range(weight.shape[1]):
            votes[np.arange(len(votes)), label[rows[part, column]]] += weight[:, column]
        predicted[part] = votes.argmax(1)
    return predicted


def accuracies(
    rows: NDArray[np.integer],
    similarity: NDArray[np.float64],
    labels: tuple[NDArray[np.int64], NDArray[np.int64]],
    counts: tuple[int, ...],
    temperature: float,
) -> dict[str, float]:
    """Share of test samples whose class is predicted from k neighbours, as `top1@K` for each k in `counts`.

    Args:
        rows: (n, most neighbours) training samples, as in `classify`.
        similarity: (n, most neighbours).
        labels: (N,) of the training samples and (n,) of the test samples.
        counts: numbers of neighbours, of which none exceeds those given.
        temperature: as in `classify`.
    """
    train, test = labels
    return {
        name: float((classify(rows[:, :k], similarity[:, :k], train, temperature) == test).mean())
        for name, k in zip(columns(counts), counts, strict=True)
    }


def columns(counts: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the scores."""
    return tuple(f"top1@{k}" for k in counts)
