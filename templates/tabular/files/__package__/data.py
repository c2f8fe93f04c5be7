"""Convert columns to tensors: scaled numbers, class indices for embeddings, and the target.

Means, deviations, and classes are computed from the training rows only, and kept in ``about`` for ``predict``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from .config import DECIMAL_MARKS, Config
from .engine import distributed
from .engine.errors import ProjectError, library
from .engine.loader import Data, Tensors, fingerprint, split
from .engine.options import as_option, words
from .tables import TEXT, UNKNOWN_MARK, UNNAMED, Table, is_empty, is_number, read_table

UNKNOWN = 0  # the index of a class that is in no training row
ANOTHER = "to predict another column, pass `--target NAME`"
MOST_CLASSES = 10  # more different whole numbers are a target to predict as a number


def load_data(config: Config) -> Data:
    """Load the configured table. Any ``Dataset`` of numbers, classes, and targets works here, with ``about``."""
    table = tumors() if config.data is None else _read(config.data, config)
    features, target = _choose_columns(table, config)
    labels = _labels(table, target, config)
    held_back, kept = split(table.rows, config.val_fraction, labels=labels, seed=config.split_seed)
    _warn_about_columns(table, features, config)
    targets, about_target = _target(table, target, kept, labels)
    about = {**_about(table, features, kept, config), **about_target, "encoding": config.encoding}
    numbers, classes = encode(table, about)
    told = f"{len(about['labels'])} classes" if about["labels"] else "a number"
    distributed.say(f"predicting `{target}`, {told}, from {len(features)} columns of {table.rows} rows")
    return Data(
        train=Tensors(numbers[kept], classes[kept], targets[kept]),
        validation=Tensors(numbers[held_back], classes[held_back], targets[held_back]),
        about=about,
        lazy=False,
        fingerprint=fingerprint([numbers, classes, targets]),
    )


def _read(path: Path, config: Config) -> Table:
    texts = dict.fromkeys(set(words(config.categorical)) - {config.target}, TEXT)
    return read_table(path, config.encoding, kinds=texts, decimal=DECIMAL_MARKS[config.decimal])


def encode(table: Table, about: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return scaled numbers (rows, numeric) and class indices (rows, categorical) of a table with the same columns.

    A number that may be empty has a second column, which marks the empty cells.
    """
    for column in (*about["numeric"], *about["categorical"]):
        if column["name"] not in table.columns:
            raise ProjectError(f"`{table.source}` has no column `{column['name']}`", hint="add the column")
    numbers = [_scaled(table, column) for column in about["numeric"]] or [torch.zeros(table.rows, 0)]
    classes = torch.zeros(table.rows, len(about["categorical"]), dtype=torch.long)
    for place, column in enumerate(about["categorical"]):
        known = {cell: index for index, cell in enumerate(column["values"], start=1)}
        cells = table.cells(column["name"])
        index_of = {cell: known.get(_class(cell), UNKNOWN) for cell in set(cells)}
        classes[:, place] = torch.tensor([index_of[cell] for cell in cells])
    return torch.cat(numbers, dim=1), classes


def _class(cell: str) -> str:
    """Return the class that a cell means: 2.0 is 2, as other programs save it, but 02 and NA are only themselves."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", cell)


def _scaled(table: Table, column: dict[str, Any]) -> Tensor:
    values = table.numbers(column["name"], hint="write it as in the training data")
    empty = numpy.isnan(values)
    if empty.any() and not column["may_be_empty"]:
        place = table.place(column["name"], int(empty.argmax()))
        raise ProjectError(f"{place} is empty, which no training row was", hint="fill the cell or remove the row")
    scaled = numpy.where(empty, 0.0, (values - column["mean"]) / column["deviation"])
    columns = [scaled, empty] if column["may_be_empty"] else [scaled]
    return torch.from_numpy(numpy.stack(columns, axis=1).astype(numpy.float32))


def _choose_columns(table: Table, config: Config) -> tuple[list[str], str]:
    """The columns to learn from, and the one to predict."""
    names = [name for name in table.columns if not _is_blank(table, name)]
    target, ignored = config.target or names[-1], words(config.ignore)
    for name in (target, *ignored, *words(config.categorical)):
        if name not in names:
            raise ProjectError(
                f"`{table.source}` has no column `{name}`", hint=f"use one of its columns: {', '.join(names[:30])}"
            )
    features = [name for name in names if name != target and name not in ignored]
    if not features:
        raise ProjectError(
            f"`{table.source}` has no column to predict `{target}` from", hint="add or keep at least one more column"
        )
    return features, target


def _is_blank(table: Table, name: str) -> bool:
    """Return whether this is what a separator at the end of each line makes."""
    return name.startswith(UNNAMED) and all(map(is_empty, table.cells(name)))


def _warn_about_columns(table: Table, features: Sequence[str], config: Config) -> None:
    """Warn about columns that number the rows, or are read as words, although most rows differ or have numbers."""
    found: dict[str, str] = {}
    for name in features:
        column = table.columns[name]
        if isinstance(column, list):
            count, is_words = len(set(column)), _is_words(column)
            if cell := _with_unit(column):
                found[name] = f"is read as words, although its cells are like the number `{cell}`"
            elif 2 * count > table.rows and is_words:
                found[name] = f"has {count} different words in {table.rows} rows, such as `{column[0][:40]}`"
        elif table.rows > 2 and (numpy.diff(column) == 1).all():
            found[name] = "numbers the rows, so a model may learn their order"
    if found and distributed.rank() == 0:
        for name, what in found.items():
            print(f"warning: column `{name}` {what}", file=sys.stderr)
        print(
            f"hint: to ignore what the model should not see, pass `{_adding('ignore', config, *found)}`",
            file=sys.stderr,
        )


def _adding(option: str, config: Config, *names: str) -> str:
    """Return the option ``--ignore`` or ``--categorical`` with more names than it has."""
    quoted = ['"{}"'.format(name.replace('"', '""')) if "," in name or '"' in name else name for name in names]
    return as_option(option, ",".join(filter(None, [getattr(config, option), *quoted])))


def _with_unit(column: Any) -> str:
    """Return a cell if all cells are numbers with a currency, percent sign, or space, such as $5; else, nothing."""
    cells = {cell for cell in column if not is_empty(cell)} if isinstance(column, list) else set()
    units = {cell: re.sub(r"[$€£¥%'\u2019\s]", "", cell) for cell in islice(cells, 100)}
    are_numbers = all(map(is_number, units.values()))
    return next((cell for cell in units if are_numbers and not is_number(cell)), "")


def _about(table: Table, features: Sequence[str], kept: list[int], config: Config) -> dict[str, Any]:
    """Return what ``encode`` needs; categorical are the named columns, and those with mostly words."""
    categorical = [name for name in features if name in words(config.categorical) or _is_words(table.columns[name])]
    numeric = [_numeric(table, name, kept, config) for name in features if name not in categorical]
    values = {name: table.cells(name) for name in categorical}
    seen = [{"name": name, "values": sorted({_class(cells[row]) for row in kept})} for name, cells in values.items()]
    kinds = {name: table.kinds.get(name, "") for name in features} | dict.fromkeys(categorical, TEXT)
    return {"numeric": numeric, "categorical": seen, "kinds": kinds, "separator": table.separator}


def _is_words(column: Any) -> bool:
    if not isinstance(column, list):
        return False
    filled = [cell for cell in column if not is_empty(cell)]
    return 2 * sum(not is_number(cell) for cell in filled) > len(filled)


def _number_hints(table: Table, name: str, *others: str) -> Sequence[str]:
    """Return what helps if the cells of a column are no numbers, or may be two different ones; else ``others``."""
    if isinstance(table.columns[name], list) and table.kinds.get(name) == UNKNOWN_MARK:
        return (
            "if the point is the decimal mark, pass `--decimal point`",
            "if it is the comma, pass `--decimal comma`",
        )
    if found := _with_unit(table.columns[name]):
        return (f"write `{found}` and the others without what isn't part of the number",)
    return others


def _numeric(table: Table, name: str, kept: list[int], config: Config) -> dict[str, Any]:
    ignore = f"to ignore the column, pass `{_adding('ignore', config, name)}`"
    classes = f"to treat it as classes, pass `{_adding('categorical', config, name)}`"
    values = table.numbers(name, hint=_number_hints(table, name, classes, ignore))
    empty = numpy.isnan(values)
    if empty.any() and config.missing == "error":
        raise ProjectError(
            f"{table.place(name, int(empty.argmax()))} is empty",
            hint="to replace empty cells by the column's mean and mark them, pass `--missing mean`",
        )
    known = values[kept][~empty[kept]]
    if not len(known):
        raise ProjectError(f"column `{name}` of `{table.source}` is empty in all training rows", hint=ignore)
    deviation = float(known.std()) or 1.0
    return {"name": name, "mean": float(known.mean()), "deviation": deviation, "may_be_empty": bool(empty.any())}


def _labels(table: Table, name: str, config: Config) -> list[str]:
    """Return the class of each row, or nothing if the target is a number; raise if a row has no target."""
    cells = table.cells(name)
    empty = next((row for row, cell in enumerate(cells) if is_empty(cell)), None)
    if empty is not None:
        raise ProjectError(f"the target is empty in {table.place(name, empty)}", hint="fill the cell or remove the row")
    if _is_regression(table, name, config):
        return []
    _check_labels(table, name, set(cells))
    return cells


def _target(table: Table, name: str, kept: list[int], cells: list[str]) -> tuple[Tensor, dict[str, Any]]:
    """Return targets with the names of their classes, or scaled targets with mean and deviation of training rows."""
    if not cells:
        classes = ["to predict classes, pass `--task classification`"] * (not _has_too_many(table, name))
        values = table.numbers(name, hint=_number_hints(table, name, *(classes or [ANOTHER])))
        mean, deviation = float(values[kept].mean()), float(values[kept].std())
        if deviation == 0:
            raise ProjectError(
                f"the target `{name}` is {mean:g} in all training rows",
                hint="to predict another column, pass `--target NAME`",
            )
        scaled = torch.from_numpy(((values - mean) / deviation).astype(numpy.float32))
        return scaled, {"target": name, "labels": [], "counts": [], "mean": mean, "deviation": deviation}
    labels = sorted(set(cells))
    places = {label: place for place, label in enumerate(labels)}
    targets = torch.tensor([places[cell] for cell in cells])
    counts = torch.bincount(targets[kept], minlength=len(labels)).tolist()
    return targets, {"target": name, "labels": labels, "counts": counts, "mean": 0.0, "deviation": 1.0}


def _has_too_many(table: Table, name: str) -> bool:
    """Return whether the column has too many different cells for classes."""
    return len(set(table.cells(name))) > table.rows // 2


def _check_labels(table: Table, name: str, labels: set[str]) -> None:
    if len(labels) < 2:
        raise ProjectError(f"the target `{name}` has only one class, `{min(labels)}`", hint=ANOTHER)
    if _has_too_many(table, name):
        is_numeric = all(map(is_number, labels))
        raise ProjectError(
            f"the target `{name}` has {len(labels)} classes in {table.rows} rows",
            hint=_number_hints(
                table, name, ANOTHER, *["to predict it as a number, pass `--task regression`"] * is_numeric
            ),
        )


def _is_regression(table: Table, name: str, config: Config) -> bool:
    """Return whether the target is a number; ``auto``: it has fractions, or too many different whole numbers."""
    column = table.columns[name]
    if isinstance(column, list) and table.kinds.get(name) == UNKNOWN_MARK and config.task == "auto":
        return _has_too_many(table, name)
    if config.task != "auto" or isinstance(column, list):
        return config.task == "regression"
    return bool((column != numpy.floor(column)).any()) or len(numpy.unique(column)) > MOST_CLASSES


def tumors() -> Table:
    """Load 569 real tumors with 30 measurements each, benign or malignant (UCI, in scikit-learn)."""
    hint = (
        "to install the locked environment, run `envforge install`",
        "to use your own table, pass `--data FILE`",
    )
    bunch = library("sklearn.datasets", "the built-in data", hint=hint).load_breast_cancer()
    columns: dict[str, Any] = {str(name): column for name, column in zip(bunch.feature_names, bunch.data.T)}
    kinds = [str(bunch.target_names[kind]) for kind in bunch.target.tolist()]
    return Table("breast_cancer of scikit-learn", {**columns, "kind": kinds})
