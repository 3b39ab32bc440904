"""Gates: networks that look at what is about to be served and say whether it may be.

An edit declares what it touches, but nobody can promise what a generator makes of it. A gate compares each variant with
its photo, or with real photos as such; one that fails is made again with half the move, then a quarter of it, and then
the photo itself is served (:meth:`ganaug.augment.BatchAugmenter.serve`).

A gate sees pictures in the framing of its own network (:mod:`ganaug.gatekeeper`). What it answers for one variant does
not depend on the others of the batch, so that networks have to be in eval mode. Only a score within rounding of the
threshold (1e-6) may fall on the other side of it in a batch of another size; the recipe says what was served.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.embedders import AttributeClassifier, FaceEmbedder, load_embedder
from ganaug.faces.framing import framing_of
from ganaug.faces.templates import TEMPLATES
from ganaug.interfaces import Embedder, UserInputError

# Neighbours that the distance to the real photos is measured by, as in the improved precision of generated images
# (arXiv 1904.06991, section 3).
NEIGHBOURS = 3
# Share of the real photos that lie no farther from the others than a variant may.
KEPT_SHARE = 0.99
_HEADS = ("gender", "race")  # of the bundled embedder, that a gate may ask
_MIN_PHOTOS = 50  # so that a hundredth of them means something


@runtime_checkable
class Gate(Protocol):
    """Compares what is served with what it stands for. A ``torch.nn.Module`` is moved to where variants are made.

    Attributes:
        watches: Attributes that it answers for: edits that touch them are allowed though they are to be preserved.
        template: Framing that it wants, a key of :data:`ganaug.faces.templates.TEMPLATES`; None: the generator's chip.
        size: Height and width of the pictures that it wants, in pixels; None: those of the generator's chip.
        compares: Whether ``judge`` looks at the photo.
    """

    watches: frozenset[str]
    template: str | None
    size: int | None
    compares: bool

    def features(self, images: Tensor) -> Tensor:
        """``images (K, 3, size, size)`` in [-1, 1] -> ``(K, E)`` float32, each row from its own image alone."""
        ...

    def judge(self, served: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Features of variants and of their photos, ``(K, E)`` each -> score ``(K,)`` and pass ``(K,)`` bool.

        ``photos`` are the features of the variants themselves where the gate does not compare. Features that are not
        finite must not pass.
        """
        ...


class IdentityGate(nn.Module):
    """Whether a variant is still the person of its photo: by the cosine of their embeddings.

    Args:
        embedder: Network, see :func:`ganaug.embedders.load_embedder`; attributes ``template``, ``img_resolution`` and
            ``threshold`` say which pictures it wants and where two people begin.
        threshold: Least cosine that passes, in [-1, 1]; default: the embedder's.

    Raises:
        UserInputError: For a threshold out of range, or none.

    Example:
        >>> from ganaug.embedders import load_embedder
        >>> gate = IdentityGate(load_embedder(), threshold=0.5)
        >>> gate.judge(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]]))[1].tolist()
        [True, False]
    """

    compares = True

    def __init__(self, embedder: Embedder, threshold: float | None = None) -> None:
        super().__init__()
        self.watches = frozenset({"identity"})
        self.embedder = embedder
        self.template, self.size = framing_of(embedder)
        given = getattr(embedder, "threshold", None) if threshold is None else threshold
        if isinstance(given, bool) or not isinstance(given, int | float) or not -1.0 <= given <= 1.0:
            raise UserInputError(
                f"threshold is the least cosine between a variant and its photo, a number in [-1, 1]; got {given!r}"
                + (", for the embedder has none of its own" if threshold is None and given is None else "")
            )
        self.threshold = float(given)

    def extra_repr(self) -> str:
        """The threshold, for ``repr``."""
        return f"threshold={self.threshold:g}"

    def features(self, images: Tensor) -> Tensor:
        """Unit vectors."""
        return F.normalize(_rows(self.embedder(images), images, "the embedder"), dim=1)

    def judge(self, served: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Score: the cosine."""
        score = (served * photos).sum(dim=1)
        return score, score >= self.threshold


class QualityGate(nn.Module):
    """Whether a variant looks like a photo at all: by its distance to the nearest real ones.

    The score is minus the Euclidean distance to the ``NEIGHBOURS``-th nearest real photo in the space of a network's
    features (deep nearest neighbours as a test for what a distribution does not hold: arXiv 2204.06507, section 3). A
    variant passes if it is no farther from them than ``kept`` of the real photos are from the others.

    Args:
        network: Images ``(K, 3, H, W)`` in [-1, 1] to features ``(K, E)``: an embedder, or
            :class:`ganaug.features.PooledFeatures` of a discriminator.
        kept: Share of real photos that would pass, in (0, 1].
        template: Framing that the network wants; default: what the network says, else the generator's chip.
        size: Side in pixels that it wants, likewise.

    Attributes:
        threshold: Least score that passes; NaN, which lets nothing pass, until :meth:`fit` was called.

    Raises:
        UserInputError: For arguments out of range.
    """

    compares = False
    real: Tensor
    limit: Tensor

    def __init__(
        self, network: nn.Module, kept: float = KEPT_SHARE, template: str | None = None, size: int | None = None
    ) -> None:
        super().__init__()
        if not 0.0 < kept <= 1.0:
            raise UserInputError(f"kept is the share of real photos that would pass, in (0, 1]; got {kept!r}")
        self.watches: frozenset[str] = frozenset()
        self.network, self.kept = network, float(kept)
        self.template, self.size = framing_of(network, template, size)
        self.register_buffer("real", torch.zeros(0, 0))
        self.register_buffer("limit", torch.tensor(float("nan")))

    @property
    def threshold(self) -> float:
        """See the class."""
        return -float(self.limit)

    @torch.no_grad()
    def fit(self, images: Tensor, batch_size: int = 64) -> "QualityGate":
        """Remembers real photos and how far they lie from each other.

        Args:
            images: ``(N, 3, S, S)`` in [-1, 1] in the network's framing, see :func:`ganaug.gatekeeper.frame_photos`.
            batch_size: Photos that the network sees at a time.

        Raises:
            UserInputError: For fewer than 50 photos, or features that are not finite.
        """
        if images.ndim != 4 or len(images) < _MIN_PHOTOS:
            raise UserInputError(
                f"a quality gate is fitted to at least {_MIN_PHOTOS} real photos (N, 3, S, S), "
                f"got {tuple(images.shape)}"
            )
        real = torch.cat([self.features(part) for part in images.split(batch_size)])
        if not real.isfinite().all():
            raise UserInputError("the network gives features of real photos that are not finite")
        # The nearest of all to a photo is the photo itself.
        distances = torch.cat([_nearest(part, real, NEIGHBOURS + 1) for part in real.split(batch_size)])
        self.real, self.limit = real, torch.quantile(distances, self.kept)
        return self

    def features(self, images: Tensor) -> Tensor:
        """What the network says."""
        return _rows(self.network(images), images, "the network")

    def judge(self, served: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Score: minus the distance to the third nearest real photo.

        Raises:
            UserInputError: Before :meth:`fit`.
        """
        if not len(self.real):
            raise UserInputError(
                "the quality gate knows no real photos: call gate.fit(frame_photos(train, gate)) first, with "
                "frame_photos of ganaug.gatekeeper"
            )
        distance = _nearest(served, self.real, NEIGHBOURS)
        return -distance, distance <= self.limit


class LabelGate(nn.Module):
    """Whether a classifier sees the same class in a variant as in its photo.

    Args:
        classifier: Images ``(K, 3, H, W)`` in [-1, 1] to logits ``(K, C)``, at least two classes.
        watches: What the classes mean: ``"label"``, or an attribute such as ``"gender"``, which edits may then touch.
        template: Framing that the classifier wants; default: what it says, else the generator's chip.
        size: Side in pixels that it wants, likewise.
    """

    compares = True

    def __init__(
        self,
        classifier: nn.Module,
        watches: Iterable[str] = ("label",),
        template: str | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.watches = frozenset((watches,) if isinstance(watches, str) else watches)
        self.classifier = classifier
        self.template, self.size = framing_of(classifier, template, size)

    def features(self, images: Tensor) -> Tensor:
        """Logits."""
        logits = _rows(self.classifier(images), images, "the classifier")
        if logits.shape[1] < 2:
            raise UserInputError(
                f"the classifier gives {logits.shape[1]} logit an image; expected one for each of at least two classes"
            )
        return logits

    def judge(self, served: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Score: the probability of the photo's class in the variant."""
        wanted = photos.argmax(dim=1)
        score = served.softmax(dim=1).gather(1, wanted[:, None])[:, 0]
        finite = served.isfinite().all(dim=1) & photos.isfinite().all(dim=1)
        return score, (served.argmax(dim=1) == wanted) & finite


def choose_gates(gate: "Literal['auto'] | Gate | Sequence[Gate] | None", preserve: Sequence[str]) -> tuple[Gate, ...]:
    """The gates of a dataset.

    Args:
        gate: ``"auto"``: an :class:`IdentityGate` with the bundled embedder if identity is to be preserved, and a
            :class:`LabelGate` with a head of it for ``"gender"`` and ``"race"``; a gate, several, or None for none.
        preserve: What must not change.

    Raises:
        UserInputError: For anything else.
    """
    if isinstance(gate, str) and gate == "auto":
        return _bundled_gates(preserve)
    if gate is None:
        return ()
    gates: list[Any] = list(gate) if isinstance(gate, Sequence) and not isinstance(gate, str) else [gate]
    for one in gates:
        if not isinstance(one, Gate):
            raise UserInputError(f"gate must be 'auto', None, or objects with the Gate protocol, got {one!r}")
        if one.template is not None and one.template not in TEMPLATES:
            raise UserInputError(
                f"a gate wants the framing {one.template!r}: expected None or one of {', '.join(sorted(TEMPLATES))}"
            )
    return tuple(gates)


def _bundled_gates(preserve: Sequence[str]) -> tuple[Gate, ...]:
    """What the bundled embedder can watch; age, a quantity cut into bins, is none of it."""
    wanted = dict.fromkeys(name for name in preserve if name in ("identity", *_HEADS))
    if not wanted:
        return ()
    embedder = cast(FaceEmbedder, load_embedder())
    return tuple(
        IdentityGate(embedder) if name == "identity" else LabelGate(AttributeClassifier(embedder, name), watches=name)
        for name in wanted
    )


def watched_by(gates: Iterable[Gate]) -> frozenset[str]:
    """Attributes that any of the gates answers for."""
    return frozenset[str]().union(*(gate.watches for gate in gates))


def _rows(found: Tensor, images: Tensor, what: str) -> Tensor:
    """``found`` as float32, if it is one row an image."""
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserInputError(f"{what} of a gate turned images {tuple(images.shape)} into {got}, expected (K, E)")
    return found.float()


def _nearest(rows: Tensor, real: Tensor, k: int) -> Tensor:
    """``(K,)`` distance of each row to the k-th nearest of ``real``; NaN for rows that are not finite."""
    # By differences, not by a matrix product, whose rounding depends on the batch.
    distances = torch.cdist(rows.nan_to_num(0.0, 0.0, 0.0), real, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.where(rows.isfinite().all(dim=1), distances.kthvalue(k, dim=1).values, float("nan"))
