"""How each precision is built: what a recipe may say about it. What is None is decided by measurement.

``exclude`` holds patterns of node names or operator types, as ``fnmatch`` reads them (``*``, ``?``, ``[seq]``); what
they match stays in FP32. A pattern that matches no node of the model is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, get_args

import msgspec
from msgspec.structs import fields, force_setattr

from dlc.errors import RecipeError

Form: TypeAlias = Literal["auto", "weights"]
"""What ``int8`` quantizes: ``auto``: weights and activations, static for convolutional nets and dynamic for the rest;
``weights``: weights alone, in blocks, as ``int4`` does.
"""
Recovery: TypeAlias = Literal["smooth-quant", "equalize-layers", "correct-bias", "learn-rounding", "spare-nodes"]
RECOVERIES: tuple[Recovery, ...] = get_args(Recovery)
Method: TypeAlias = Literal["rtn", "hqq", "gptq"]
METHODS: tuple[Method, ...] = get_args(Method)
BLOCKS = (16, 32, 64, 128, 256)
"""Elements that ONNX Runtime's block-wise kernels take at a time."""


class Excluding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all: nodes that stay in FP32."""

    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _plain(self, "exclude")
        if "" in self.exclude:
            raise RecipeError(f"{type(self).__name__.lower()}: an empty pattern in exclude matches no node")


class Fp16(Excluding, frozen=True, kw_only=True):
    """Options of ``fp16``."""


class Bf16(Excluding, frozen=True, kw_only=True):
    """Options of ``bf16``."""


class Blocks(Excluding, frozen=True, kw_only=True):
    """Options of weights in blocks. ``block_size``: elements that share a scale. ``symmetric``: no zero points.

    ``method``: how weights are rounded; ``gptq`` needs calibration data. ``accuracy_level``: what products may do to
    activations: 0 keeps them in FP32, 4 rounds them to int8.
    """

    block_size: int = 32
    method: Method | None = None
    symmetric: bool | None = None
    accuracy_level: int | None = None

    def __post_init__(self) -> None:
        Excluding.__post_init__(self)
        name = type(self).__name__.lower()
        if self.block_size not in BLOCKS:
            raise RecipeError(f"{name}: block_size={self.block_size} has no kernel: {', '.join(map(str, BLOCKS))}")
        if self.method is not None:
            _known(self.method, METHODS, f"{name}: unknown method")
        if self.accuracy_level not in (None, 0, 4):
            raise RecipeError(f"{name}: accuracy_level={self.accuracy_level}: 0 keeps FP32, 4 rounds to int8")


class Int4(Blocks, frozen=True, kw_only=True):
    """Options of ``int4``. ``table_bits``: 4 or 8, of tables."""

    table_bits: int | None = None

    def __post_init__(self) -> None:
        Blocks.__post_init__(self)
        if self.table_bits not in (None, 4, 8):
            raise RecipeError(f"int4: table_bits={self.table_bits}: a table takes 4 or 8 bits")


class Int8(Blocks, frozen=True, kw_only=True):
    """Options of ``int8``, and of ``mixed``, whose formats are those of ``int8``.

    ``recover``: what may be tried to recover accuracy. ``lstm_inputs``: also LSTMs that read an input of the model.
    Options of blocks belong to the form ``weights``; ``recover`` and ``lstm_inputs`` do not.
    """

    form: Form = "auto"
    recover: tuple[Recovery, ...] = RECOVERIES
    lstm_inputs: bool = False

    def __post_init__(self) -> None:
        Blocks.__post_init__(self)
        _plain(self, "recover")
        _known(self.form, get_args(Form), "unknown form of int8,")
        for each in self.recover:
            _known(each, RECOVERIES, "int8: nothing to recover accuracy is called")
        blocks = {f.name for f in fields(Blocks)} - {"exclude"}
        for option in (f.name for f in fields(self) if getattr(self, f.name) != f.default):
            if option in (("recover", "lstm_inputs") if self.form == "weights" else blocks):
                other = "auto" if self.form == "weights" else "weights"
                raise RecipeError(f'int8: {option} belongs to form = "{other}", not to "{self.form}": leave one out')


Options: TypeAlias = Fp16 | Bf16 | Int8 | Int4
OPTIONS: Mapping[str, type[Options]] = {"fp16": Fp16, "bf16": Bf16, "int8": Int8, "int4": Int4}
"""By the name of the precision."""


def _plain(options: Excluding, name: str) -> None:
    """Let one word stand for several, and a list for a tuple."""
    given = getattr(options, name)
    force_setattr(options, name, (given,) if isinstance(given, str) else tuple(given))


def _known(word: str, words: Iterable[str], problem: str) -> None:
    if word not in (known := tuple(words)):
        from dlc.recipe import suggest

        raise RecipeError(f"{problem} {word!r}{suggest(word, known)}")
