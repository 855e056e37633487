"""The deployable model: images in, calibrated class probabilities out.

A model is arrays and JSON (see `grocery.core.arrays`): loading one executes nothing. Prediction
needs numpy, Pillow, safetensors and threadpoolctl only. A model with an ONNX backbone also holds
the ONNX file, which is data too, and needs onnxruntime.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grocery.classifier.head import Head
from grocery.core.arrays import Arrays, digest_of, load_arrays, save_arrays
from grocery.core.errors import (
    DataError,
    GroceryError,
    ModelError,
    NotInstalled,
    UnreadableImage,
    memory_for,
)
from grocery.core.pin import one_thread, warn_of_other_kernels
from grocery.features.encoder import Encoder
from grocery.images.colours import Note
from grocery.images.decoding import pixels
from grocery.images.preprocessing import Preprocessing
from grocery.images.raw import opened

KIND = "grocery-model"
_BATCH = 64  # images whose raw vectors are held at once
# What a damaged description can give rise to.
_NO_MODEL = (ArithmeticError, AttributeError, GroceryError, LookupError, TypeError, ValueError)
_TRIAL = (64, 48)  # width and height of the picture that a model is tried out on, in pixels

Floats = NDArray[np.float32]
# A path, the contents of a file, an image that Pillow opened or made, or its pixels in RGB.
RawImage = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
_ALLOWED = (
    "a path, the bytes of a file, a Pillow image, or an array (height, width, 3) of uint8 in RGB"
)


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image: the class, its probability, and the coarse class if any."""

    label: str
    confidence: float
    coarse: str | None = None


@dataclass(frozen=True)
class Model:
    """Raw images to canonical pixels to features (n, d) to probabilities (n, c).

    The probabilities are in the order of `classes`. `coarse` has the coarse class of each class,
    and is empty where the data has none.
    """

    encoder: Encoder
    head: Head
    classes: list[str]
    coarse: dict[str, str]
    preprocessing: Preprocessing

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the model is, its backbone and its description: its identity."""
        return digest_of(KIND, self._arrays(), self._description())

    @one_thread()
    def predict_proba(self, jpegs: Sequence[bytes]) -> Floats:
        """Class probabilities (n, c) of canonical JPEG images, as they lie in shards."""
        return self.head.predict_proba(self.features(jpegs))

    @one_thread()
    def features(self, jpegs: Sequence[bytes]) -> Floats:
        """Features (n, d) of canonical JPEG images: unit vectors, which the head predicts from."""
        if not len(jpegs):
            return np.empty((0, self.encoder.dimensions), np.float32)
        batches = [jpegs[start : start + _BATCH] for start in range(0, len(jpegs), _BATCH)]
        return np.concatenate([self.encoder([pixels(jpeg) for jpeg in each]) for each in batches])

    def predict(self, images: RawImage | Iterable[RawImage]) -> list[Prediction]:
        """Predict raw images.

        Each is prepared as the pipeline prepares it, so a prediction on a raw test file is the
        pipeline's. A few images are held at once, however many there are.

        Parameters
        ----------
        images
            Each a path, the bytes of a file, a Pillow image, or an array (height, width, 3) of
            uint8, in RGB. One image alone is taken as a list of one.

        Returns
        -------
        One prediction per image, in their order: a list also of one image, as scikit-learn's
        ``predict`` gives an array, so ``model.predict("photo.jpg")[0].label`` is its class.

        Raises
        ------
        DataError
            When an image cannot be read, or is something else; it says which (its path, or
            ``image N``, the first being 1) and why.
        """
        numbered = enumerate(_many(images), start=1)
        prepared = (self.prepare(image, f"image {number}") for number, image in numbered)
        predictions: list[Prediction] = []
        while jpegs := list(islice(prepared, _BATCH)):
            predictions += [best for (best,) in self.rank(jpegs)]
        return predictions

    def prepare(
        self, image: RawImage, name: str = "the image", note: Note = lambda _: None
    ) -> bytes:
        """Make a raw image the canonical JPEG that the model was trained on.

        `note` is called with a sentence on what is wrong with a file that is read all the same.

        Raises
        ------
        DataError
            When it cannot be read, or is something else; it says which and why.
        OutOfMemory
            When there is not enough memory for it; it says which.
        """
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else name
        try:
            with memory_for(name):
                raw = _opened(image, name, self.preprocessing.file_limit)
                return self.preprocessing.prepare(raw, note)
        except NotInstalled as error:
            raise NotInstalled(f"{name} is {error}") from None
        except UnreadableImage as error:
            raise DataError(f"{name} cannot be read as an image: {error}") from error
        except IsADirectoryError:
            inside = f"pathlib.Path({name!r}).rglob('*.jpg')"
            raise DataError(f"{name} is a folder; give the images in it: {inside}") from None
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}") from error

    def rank(self, jpegs: Sequence[bytes], top: int = 1) -> list[list[Prediction]]:
        """The `top` most probable classes of each canonical JPEG image, the best first.

        Of equal probabilities the earlier class comes first; a model with fewer than `top` classes
        gives all of them.
        """
        probabilities = self.predict_proba(jpegs)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [self._prediction(index, row[index]) for index in best]
            for best, row in zip(order, probabilities, strict=True)
        ]

    def _prediction(self, index: int, probability: np.float32) -> Prediction:
        label = self.classes[index]
        return Prediction(label, float(probability), self.coarse.get(label))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """Load a model from its folder.

        Raises
        ------
        ModelError
            When the folder holds no model, a damaged one, or parts of different models.
        """
        warn_of_other_kernels()
        folder = Path(path)
        arrays, description = load_arrays(folder, KIND)
        try:
            model = _model(arrays, description, folder)
            _try_out(model)
        except ModelError:
            raise
        except _NO_MODEL as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ModelError(f"{folder} is not a whole {KIND}: {reason}") from error
        return model

    def save(self, folder: Path) -> str:
        """Write the model to a folder; return its digest."""
        self.encoder.save_backbones(folder)
        return save_arrays(folder, KIND, self._arrays(), self._description())

    def _arrays(self) -> Arrays:
        return self.encoder.arrays() | self.head.arrays("head_")

    def _description(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.settings,
            "classes": self.classes,
            "coarse": self.coarse,
            "preprocessing": self.preprocessing.settings(),
        }


def _many(images: Any) -> Iterable[Any]:
    """The images; what is one, or was meant as one, comes alone."""
    one = isinstance(images, str | bytes | bytearray | memoryview | Image.Image | io.IOBase)
    if one or (isinstance(images, np.ndarray) and images.ndim in (2, 3)):
        return [images]
    try:
        found: Iterable[Any] = iter(images)  # has no __iter__ where it is a PyTorch dataset
    except TypeError:
        found = [images]
    return found


def _opened(image: object, name: str, limit: int) -> bytes | Image.Image:
    """What the preprocessing takes; a file of more bytes than the limit is refused."""
    if isinstance(image, bytes | Image.Image):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            with opened(image, limit) as stream:
                return stream.read()
        except ValueError:
            raise DataError(f"{name!r:.80} is no path; an image is {_ALLOWED}") from None
    found = f"of type {type(image).__name__}"
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
            return Image.fromarray(image)
        found = f"an array {image.shape} of {image.dtype}"
    raise DataError(f"{name} is {found}; an image is {_ALLOWED}")


def _model(arrays: Arrays, description: dict[str, Any], folder: Path) -> Model:
    classes, coarse = description["classes"], description["coarse"]
    names = [*classes, *coarse, *coarse.values()]
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in names)):
        raise TypeError("its classes are not a list of names")
    if len(set(classes)) < len(classes):
        raise ValueError("two of its classes have the same name")
    preprocessing = Preprocessing(**description["preprocessing"])
    encoder = Encoder.from_arrays(arrays, description["encoder"], folder)
    head = Head.from_arrays(arrays, "head_")
    found = head.coefficients.shape, head.intercept.shape
    if found != ((len(classes), encoder.dimensions), (len(classes),)):
        raise ValueError(
            f"its head has coefficients {found[0]} and intercept {found[1]}, for {len(classes)} "
            f"classes and an encoder of {encoder.dimensions} dimensions"
        )
    return Model(encoder, head, classes, coarse, preprocessing)


def _try_out(model: Model) -> None:
    """Predict a small grey picture, so that what does not fit together shows at once.

    Whatever the encoder is, this asks of it what every prediction will.
    """
    with np.errstate(all="ignore"):
        probabilities = model.predict_proba([model.prepare(Image.new("RGB", _TRIAL, "grey"))])
    if not np.isclose(probabilities.sum(), 1, atol=1e-3):  # NaN is not close to anything
        raise ValueError("its probabilities do not add up to 1")
