"""Convert columns to tensors: scaled numbers, class indices for embeddings, and the target.

Means, deviations, and classes are computed from the training rows only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import Config
from .errors import Hint, ProjectError
from .options import as_option
from .samples import Samples
from .split import split
from .table import Table, is_empty, number, read_table, tumours

UNKNOWN = 0  # the index of a class that is in no training row


@dataclass(frozen=True)
class Data:
    """``train[[3, 1]]`` returns scaled numbers (2, numeric), classes (2, categorical), and targets (2).

    ``labels`` are the classes of the target, empty for a regression, which has ``scale``: mean and deviation.
    """

    train: Samples
    validation: Samples
    sizes: tuple[int, ...]
    labels: tuple[str, ...]
    scale: tuple[float, float] = (0.0, 1.0)


def load_data(config: Config) -> Data:
    """Load the configured table, with shuffled training targets for the control."""
    table = tumours() if config.data is None else read_table(config.data, config.encoding)
    features, target = _choose_columns(table, config)
    held_back, kept = split(table.rows, config.validation_part)
    numeric, categorical = _kinds(table, features, config)
    numbers = torch.cat(
        [_numbers(table, name, kept, config) for name in numeric] or [torch.zeros(table.rows, 0)], dim=1
    )
    known = [{cell: place for place, cell in enumerate(_seen(table.columns[name], kept), 1)} for name in categorical]
    indices = [[places.get(cell, UNKNOWN) for cell in table.columns[name]] for name, places in zip(categorical, known)]
    classes = torch.tensor(indices, dtype=torch.long).reshape(len(categorical), table.rows).T
    targets, labels, scale = _target(table, target, kept, config)
    train, validation = (Samples(numbers[rows], classes[rows], answers=targets[rows]) for rows in (kept, held_back))
    if config.shuffle_labels:
        train.shuffle(config.seed)
    return Data(train, validation, tuple(len(places) + 1 for places in known), labels, scale)


def _choose_columns(table: Table, config: Config) -> tuple[list[str], str]:
    """The columns to learn from, and the one to predict."""
    names = list(table.columns)
    target = config.target or names[-1]
    for name in (target, *_names(config.ignore), *_names(config.categorical)):
        if name not in names:
            raise ProjectError(
                f"`{table.source}` has no column `{name}`", hint=f"use one of its columns: {', '.join(names[:30])}"
            )
    features = [name for name in names if name != target and name not in _names(config.ignore)]
    if not features:
        raise ProjectError(
            f"`{table.source}` has no column to predict `{target}` from", hint="add or keep at least one more column"
        )
    return features, target


def _kinds(table: Table, features: Sequence[str], config: Config) -> tuple[list[str], list[str]]:
    """Return numeric and categorical columns; categorical are the named ones, and those with mostly words."""
    categorical = [name for name in features if name in _names(config.categorical) or _is_words(table.columns[name])]
    return [name for name in features if name not in categorical], categorical


def _is_words(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if not is_empty(cell)]
    return 2 * sum(number(cell) is None for cell in filled) > len(filled)


def _numbers(table: Table, name: str, kept: list[int], config: Config) -> Tensor:
    """Return the scaled numbers as (rows, 1), or as (rows, 2) with a second column that marks empty cells."""
    values = [number(cell) for cell in table.columns[name]]
    for row, (cell, value) in enumerate(zip(table.columns[name], values)):
        if value is None and not is_empty(cell):
            ignore = as_option("ignore", ",".join([*_names(config.ignore), name]))
            raise table.not_a_number(name, row, hint=[Hint("to ignore the column", option=ignore)])
        if value is None and config.missing == "error":
            raise ProjectError(
                f"{table.place(name, row)} is empty",
                hint="to replace empty cells by the column's mean and mark them",
                option="--missing mean",
            )
    empty = torch.tensor([[value is None] for value in values])
    column = torch.tensor([[value or 0.0] for value in values], dtype=torch.float64)
    known = column[kept][~empty[kept]]
    if not len(known):
        raise ProjectError(
            f"column `{name}` of `{table.source}` is empty in all training rows",
            hint="to ignore the column",
            option=as_option("ignore", ",".join([*_names(config.ignore), name])),
        )
    mean, deviation = known.mean(), known.std(unbiased=False)
    scaled = ((column - mean) / (deviation if deviation > 0 else 1.0)).masked_fill(empty, 0.0)
    return torch.cat([scaled, empty], dim=1).float() if empty.any() else scaled.float()


def _target(
    table: Table, name: str, kept: list[int], config: Config
) -> tuple[Tensor, tuple[str, ...], tuple[float, float]]:
    """Return targets with class names, or scaled targets with mean and deviation of the training rows."""
    cells = table.columns[name]
    empty = next((row for row, cell in enumerate(cells) if is_empty(cell)), None)
    if empty is not None:
        raise ProjectError(f"the target is empty in {table.place(name, empty)}", hint="fill the cell or remove the row")
    if _is_regression(table, name, config):
        values = torch.tensor([number(cell) for cell in cells], dtype=torch.float64)
        mean, deviation = float(values[kept].mean()), float(values[kept].std(unbiased=False))
        if deviation == 0:
            raise ProjectError(
                f"the target `{name}` is {mean:g} in all training rows",
                hint="to predict another column",
                option="--target NAME",
            )
        return ((values - mean) / deviation).float(), (), (mean, deviation)
    labels = tuple(_seen(cells, range(len(cells))))
    if len(labels) < 2:
        raise ProjectError(
            f"the target `{name}` has only one class, `{cells[0]}`",
            hint="to predict another column",
            option="--target NAME",
        )
    if len(labels) > len(cells) // 2:
        raise ProjectError(
            f"the target `{name}` has {len(labels)} classes in {len(cells)} rows",
            hint=(
                Hint("to predict another column", option="--target NAME"),
                Hint("to predict it as a number", option="--task regression"),
            ),
        )
    places = {label: place for place, label in enumerate(labels)}
    return torch.tensor([places[cell] for cell in cells]), labels, (0.0, 1.0)


def _is_regression(table: Table, name: str, config: Config) -> bool:
    """Return whether the task is a regression; ``auto``: all cells are numbers, and at least one is a fraction."""
    values = [number(cell) for cell in table.columns[name]]
    wrong = next((row for row, value in enumerate(values) if value is None), None)
    if config.task == "regression" and wrong is not None:
        raise table.not_a_number(name, wrong, hint=[Hint("to predict classes", option="--task classification")])
    if config.task != "auto":
        return config.task == "regression"
    return wrong is None and any(value is not None and value != int(value) for value in values)


def _seen(cells: Sequence[str], rows: Sequence[int]) -> list[str]:
    return sorted({cells[row] for row in rows})


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
