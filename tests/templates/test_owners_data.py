"""Test that the projects read what people have: photos, masks, and tables of many kinds."""

from __future__ import annotations

import importlib
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.templates.conftest import PACKAGE, write_project

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")
image_module: Any = pytest.importorskip("PIL.Image")
Modules = Callable[[str, str], Any]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Modules]:
    """Import a module of the project of a template."""

    def import_of(template: str, name: str) -> Any:
        folder = tmp_path / template
        if not folder.exists():
            write_project(folder, template)
            monkeypatch.syspath_prepend(str(folder))
        return importlib.import_module(f"{PACKAGE}.{name}")

    yield import_of
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def columns_of(module: Modules, folder: Path, text: str) -> dict[str, Any]:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    table = module("tabular", "tables").read_table(folder / "t.csv", "utf-8-sig")
    return {name: column if isinstance(column, list) else column.tolist() for name, column in table.columns.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("d,y\n1970-01-02,1\n1970-01-03T12:00:00Z,2\n", {"d": [1.0, 2.5], "y": [1.0, 2.0]}),
        ("sep=;\na;b\n1;2\n", {"a": [1.0], "b": [2.0]}),
        ("a|b\n1|2\n", {"a": [1.0], "b": [2.0]}),
        ("a;b\n1,5;1.234,5\n2;7\n", {"a": [1.5, 2.0], "b": [1234.5, 7.0]}),
        ('a,b\n"1,000",x\n"1,234.5",y\n', {"a": [1000.0, 1234.5], "b": ["x", "y"]}),
        ("a\n2024-13-01\n", {"a": ["2024-13-01"]}),
        ("a\n1.234\n", {"a": [1.234]}),
        ('a,b\n"1,5",1\n"0,123",2\n', {"a": [1.5, 0.123], "b": [1.0, 2.0]}),
        ("a\tb\n1,5\t2\n7\t3\n", {"a": [1.5, 7.0], "b": [2.0, 3.0]}),
        ("a;b\n1.234;199\n199,50;1\n", {"a": [1234.0, 199.5], "b": [199.0, 1.0]}),
        ("a;b\n1.234;1,5\n999;2\n", {"a": [1234.0, 999.0], "b": [1.5, 2.0]}),
        ("a;b\n45.000;1,5\n52.000;2\n", {"a": [45000.0, 52000.0], "b": [1.5, 2.0]}),
        ("a;b\n1.234;1.5\n999;2\n", {"a": [1.234, 999.0], "b": [1.5, 2.0]}),
        ("a;b\n1,234;1.5\n999;2\n", {"a": [1234.0, 999.0], "b": [1.5, 2.0]}),
        ("a;b\n1.234;x\n999;y\n", {"a": ["1.234", "999"], "b": ["x", "y"]}),
        ("a;b\n0.234;x\n1.999;y\n", {"a": [0.234, 1.999], "b": ["x", "y"]}),
        ("a;b\n1.5;x\n1,5;y\n", {"a": ["1.5", "1,5"], "b": ["x", "y"]}),
        (
            "price, EUR;area, m2;y\n1,5;2,5;x\n7,5;8,5;y\n",
            {"price, EUR": [1.5, 7.5], "area, m2": [2.5, 8.5], "y": ["x", "y"]},
        ),
        ('"a, b, c";"d, e"\n1;2\n', {"a, b, c": [1.0], "d, e": [2.0]}),
        ("a,b; c,y\n1,2,x\n3,4,y\n", {"a": [1.0, 3.0], "b; c": [2.0, 4.0], "y": ["x", "y"]}),
    ],
)
def test_table_is_read_as_programs_save_it(
    module: Modules, tmp_path: Path, text: str, expected: dict[str, Any]
) -> None:
    assert columns_of(module, tmp_path, text) == expected


@pytest.mark.parametrize("cell", ["007", "1_0", "inf", " 2 ", "NA", "1e400", "x y", "0x1", "", "#1"])
def test_a_cell_means_the_same_with_and_without_quotes_in_the_file(module: Modules, tmp_path: Path, cell: str) -> None:
    """Numpy reads lines, and ``csv`` those with a quote that numpy may misread; the cell is behind the first chunk."""
    rows = "".join(f"{row},{row}.5,{'NA' if row % 7 == 0 else row}\n" for row in range(20_001))
    heads = ("a,b,c", '"a",b,c', 'a,b,c\n"1\n",2,3')
    fast, quoted, careful = (columns_of(module, tmp_path, f"{head}\n{rows}{cell},2,3\n") for head in heads)
    assert repr(fast) == repr(quoted) == repr({name: column[1:] for name, column in careful.items()})
    assert isinstance(fast["b"][0], float)


ROWS = """\
zip;country;day;size;price;code;amount;y
01234;NA;2024-01-02;1.50;1.234;1;999;a
K1A;US;2024-02-03;2.00;199,50;2;5;b
00777;DE;;XL;7;3;7;a
A1;NA;2024-01-02;1.5;12,5;2.0;1.000;b
"""


def encoded(module: Modules, folder: Path, about: dict[str, Any], text: str) -> list[list[float]]:
    data, tables = (module("tabular", name) for name in ("data", "tables"))
    (folder / "n.csv").write_text(text, encoding="utf-8")
    table = tables.read_table(folder / "n.csv", "utf-8-sig", kinds=about["kinds"], separator=about["separator"])
    numbers, classes = data.encode(table, about)
    return torch.cat([numbers, classes.float()], dim=1).tolist()  # type: ignore[no-any-return]


def test_a_row_means_the_same_alone_and_in_another_file(module: Modules, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"categorical": "zip,size,code", "missing": "mean", "val_fraction": 0.1}
    about = load_table(module, tmp_path, ROWS + ROWS.partition("\n")[2] * 4, **settings).about
    head, *rows = ROWS.splitlines()
    together = encoded(module, tmp_path, about, ROWS)
    assert [encoded(module, tmp_path, about, f"{head}\n{row}\n")[0] for row in rows] == together
    assert 0.0 not in [value for row in together for value in row[-4:]]  # none of the classes is unknown
    floats = rows[1].replace("2;5", "2.0;5")
    assert encoded(module, tmp_path, about, f"{head}\n{floats}\n") == [together[1]]
    commas = [row.replace(",", ".").replace("1.234", "1234").replace("1.000", "1000").replace(";", ",") for row in rows]
    assert encoded(module, tmp_path, about, "\n".join([head.replace(";", ","), *commas])) == together
    error = module("tabular", "engine.errors").ProjectError
    for old, new in (("2024-01-02", "45292"), ("12,5", "12.5"), ("1.000", "1000.5")):
        with pytest.raises(error, match=f"expected a (date|number), found `{new}`"):
            encoded(module, tmp_path, about, f"{head}\n{rows[-1].replace(old, new)}\n")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            ["a;y", "1.234;x", "999;y", "1;x", "1;y"],
            {},
            "line 2 .* `1.234`, which is 1234 or 1.234\n\n.*`--decimal point`; .*`--decimal comma`",
        ),
        (["a;y", "x;271,656", "y;999"], {}, "`271,656`, which is 271.656 or 271656\n\nhint: .*`--decimal point`"),
        (
            ["n,zip,y", '"1\n2",01234,x', '"1\n2",7,y', '"1\n2",K1A,x', "1,2,y"],
            {},
            "`zip`, line 6 .* `K1A`\n\n.*`--categorical zip`",
        ),
        (["a,y", "1,$5", "2,$6", "3,$7"], {}, "has 3 classes in 3 rows\n\nhint: write `[$].`"),
        (["a,y", "1,$5", "2,$6"], {"task": "regression"}, "expected a number, found `[$]5`\n\nhint: write `[$].`"),
        (["a,y", "1,x", "2,z"], {"task": "regression"}, "found `x`\n\nhint: to predict another column"),
        (
            ["a,y", "1,x", "2,z", "3,w"],
            {},
            "3 classes in 3 rows\n\nhint: to predict another column, pass `--target NAME`$",
        ),
    ],
)
def test_numbers_that_are_unclear_have_a_hint_that_helps(
    module: Modules, tmp_path: Path, text: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(module("tabular", "engine.errors").ProjectError) as failure:
        load_table(module, tmp_path, "\n".join(text) + "\n", **options)
    assert re.search(message, str(failure.value))


@pytest.mark.parametrize(("decimal", "expected"), [("point", [1.234, 1234.0]), ("comma", [1234.0, 1.234])])
def test_the_decimal_mark_can_be_named(module: Modules, tmp_path: Path, decimal: str, expected: list[float]) -> None:
    rows = "1.234;1,234;x\n1.234;1,234;y\n" * 4
    about = load_table(module, tmp_path, f"a;b;y\n{rows}", decimal=decimal).about
    assert [column["mean"] for column in about["numeric"]] == expected
    assert about["kinds"] == dict.fromkeys("ab", {"point": ".", "comma": ","}[decimal])


def load_table(module: Modules, folder: Path, text: str, **options: Any) -> Any:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    config = module("tabular", "config").Config(data=folder / "t.csv", **options)
    return module("tabular", "data").load_data(config)


def test_columns_that_a_model_should_not_see_are_named(
    module: Modules, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{row},Ada {row},{row % 3}.5,{row % 3} %,,{'ja ' if row % 2 else 'nein'}\n" for row in range(20))
    data = load_table(module, tmp_path, f"id,name,0.5,part,,y\n{rows}")
    assert "column 5" not in data.about["kinds"]
    told = capsys.readouterr().err
    assert "column `id` numbers the rows, so a model may learn their order" in told
    assert "column `name` has 20 different words in 20 rows, such as `Ada 0`" in told
    assert "column `part` is read as words, although its cells are like the number" in told
    assert told.count("is read as column names, one of which is `0.5`") == 1
    assert data.about["labels"] == ["ja", "nein"]
    hint = "hint: to ignore what the model should not see, pass `--ignore id,name,part`"
    assert hint in told
    data = load_table(module, tmp_path, f'"row, no",name,0.5,part,,y\n{rows}', ignore="name")
    assert "pass `--ignore 'name,\"row, no\",part'`" in capsys.readouterr().err
    data = load_table(module, tmp_path, f'"row, no",name,0.5,part,,y\n{rows}', ignore='name,"row, no",part')
    assert list(data.about["kinds"]) == ["0.5"]
    assert capsys.readouterr().err.count("\n") == 1


def test_each_class_of_a_table_is_in_both_parts_and_a_single_one_is_for_training(
    module: Modules, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["rare", *["few"] * 3, *["many"] * 96]
    rows = "".join(f"{row % 7}.5,{name}\n" for row, name in enumerate(names))
    data = load_table(module, tmp_path, f"a,y\n{rows}", val_fraction=0.1)
    counts = [torch.bincount(side.tensors[2], minlength=3).tolist() for side in (data.train, data.validation)]
    assert counts == [[2, 86, 1], [1, 10, 0]]
    assert "the validation data have none of these, because there is only one: rare" in capsys.readouterr().err


def test_number_that_no_model_can_compute_with_is_named(module: Modules, tmp_path: Path) -> None:
    rows = "".join(f"{row}.5,{row % 2}\n" for row in range(20))
    with pytest.raises(module("tabular", "engine.errors").ProjectError, match=r"line 22 .* found `1e\+300`"):
        load_table(module, tmp_path, f"a,y\n{rows}1e300,1\n")


def test_scores_and_weights_of_classes(module: Modules) -> None:
    scores = module("tabular", "scores")
    table = torch.tensor([[8.0, 2.0, 0.0], [4.0, 6.0, 0.0], [0.0, 0.0, 0.0]])
    assert scores.f1_scores(table).tolist() == pytest.approx([16 / 22, 12 / 18, 0.0])
    assert scores.worst_pairs(table, ["a", "b", "c"]) == ["b as a (4 of 10)", "a as b (2 of 10)"]
    weights = scores.balanced(torch.tensor([30.0, 10.0]))
    assert float(weights[1] / weights[0]) == pytest.approx(3.0)
    assert float((weights * torch.tensor([30.0, 10.0])).sum()) == pytest.approx(40.0)


def test_utf_16_is_told_its_encoding(module: Modules, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,2\n", encoding="utf-16")
    with pytest.raises(module("tabular", "engine.errors").ProjectError) as failure:
        module("tabular", "tables").read_table(tmp_path / "t.csv", "utf-8-sig")
    assert failure.value.hint == "to read UTF-16, pass `--encoding utf-16`"


def write_image(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image_module.fromarray(values).save(path)


def test_hidden_files_are_no_photos_and_unreadable_ones_do_not_stop_predictions(
    module: Modules, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = module("image-classification", "images")
    write_image(tmp_path / "photos" / "a.png", numpy.full((4, 4), 0.5, dtype="uint8"))
    (tmp_path / "photos" / "._a.png").write_bytes(b"fork")
    (tmp_path / "photos" / "b.jpg").write_bytes(b"\xff\xd8 cut off")
    files = images.named_files([tmp_path / "photos"])
    assert [path.name for path in files] == ["a.png", "b.jpg"]
    found = images.decode_each(files, "RGB")
    assert next(found)[0].name == "a.png"
    with pytest.raises(images.ProjectError, match="cannot read 1 of 2 files"):
        next(found)
    assert "skipped: cannot read the image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [("float32", 0.5, 128), ("float32", 200.0, 200), ("uint16", 65535, 255), ("int32", 90, 90)],
)
def test_images_of_more_than_8_bits_are_scaled(
    module: Modules, tmp_path: Path, dtype: str, value: float, expected: int
) -> None:
    write_image(tmp_path / "a.tiff", numpy.full((4, 4), value, dtype=dtype))
    image = module("image-classification", "images").decode(tmp_path / "a.tiff", "L")
    assert numpy.asarray(image).tolist() == [[expected] * 4] * 4


@pytest.mark.parametrize(("train", "validation"), [("train", "valid"), ("Training", "Testing"), ("train", "dev")])
def test_usual_names_of_the_split_are_known(module: Modules, tmp_path: Path, train: str, validation: str) -> None:
    for name in (train, validation, "other"):
        (tmp_path / "data" / name).mkdir(parents=True)
    found = module("image-classification", "images").training_and_validation(tmp_path / "data", holds="images")
    assert found == (tmp_path / "data" / train, tmp_path / "data" / validation)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ((0, 255), "uint8", {0, 1}),
        ((False, True), "bool", {0, 1}),
        ((0, 1), "uint16", {0, 1}),
        ((0, 1, 255), "uint8", {0, 1, 255}),
    ],
)
def test_masks_of_usual_kinds_are_read(
    module: Modules, tmp_path: Path, values: tuple[int, ...], dtype: str, expected: set[int]
) -> None:
    for number in range(4):
        write_image(tmp_path / "d" / "images" / f"{number}.png", numpy.full((32, 32, 3), 9, dtype="uint8"))
        mask = numpy.resize(numpy.array(values, dtype=dtype), (32, 32))
        write_image(tmp_path / "d" / "masks" / f"{number}.png", mask)
    config = module("segmentation", "config").Config(data=tmp_path / "d", crop=32, random_crop=False)
    data = module("segmentation", "data").load_data(config)
    assert set(data.train[0][1].unique().tolist()) == expected


def test_masks_that_cannot_be_read_do_not_stop_the_weights_of_classes(module: Modules, tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}.png", numpy.full((32, 32, 3), 9, dtype="uint8"))
        write_image(tmp_path / "masks" / f"{number}.png", numpy.resize(numpy.array([0, 1], dtype="uint8"), (32, 32)))
    config = module("segmentation", "config").Config(data=tmp_path, crop=32, class_weights=True)
    data = module("segmentation", "data")
    bad = data.load_data(config).train.pairs[0][1]
    bad.write_bytes(b"xx")
    assert data.load_data(config).about["counts"] == [1024, 1024]


def test_masks_of_equal_names_are_different_files_and_no_image_is_replaced(module: Modules, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.jpg", "a.png", "b/a.jpg", "b/a-2.jpg", "B/c.jpg", "b/C.png")]
    masks = module("segmentation", "predict").mask_files([*files, files[0]], tmp_path)
    assert [masks[path].name for path in files] == ["a-2.png", "a-3.png", "a-4.png", "a-2-2.png", "c.png", "C-2.png"]


def texts_of(module: Modules, path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    about = {"text_column": "text", "encoding": "utf-8-sig"}
    return list(module("text-classification", "predict").texts_of(path, about))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "id,text\n1,good\n2\n", "line 3: `text` is no text"),
        ("t.csv", "id,words\n1,good\n", "line 2 has no `text`; found `id`, `words`"),
        ("t.jsonl", '{"text": "a"}\n{"words": "b"}\n', "line 2 has no `text`; found `words`"),
        ("t.jsonl", '{"text": null}\n', "line 1: `text` is no text"),
        ("t.jsonl", '{"text": "a"', "line 1 is not JSON"),
        ("t.jsonl", "1\n", "line 1 is not an object"),
    ],
)
def test_texts_that_cannot_be_predicted_are_named(
    module: Modules, tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(module("text-classification", "engine.errors").ProjectError, match=message):
        texts_of(module, tmp_path / name, text)


def test_texts_to_predict_are_those_of_the_training(module: Modules, tmp_path: Path) -> None:
    assert texts_of(module, tmp_path / "t.csv", "id,text\n1,good \n2,\n") == ["good", ""]
    assert texts_of(module, tmp_path / "t.jsonl", '{"text": 5}\n\n{"text": "a"}\n') == ["5", "a"]


@pytest.mark.parametrize(("length", "hint"), [(5, "add more text"), (40, "to use shorter windows, pass `--context ")])
def test_a_short_text_has_a_hint_that_helps(module: Modules, tmp_path: Path, length: int, hint: str) -> None:
    (tmp_path / "t.txt").write_text("\n".join("x" * length), encoding="utf-8")
    config = module("language-model", "config").Config(data=tmp_path / "t.txt", val_fraction=0.5)
    with pytest.raises(module("language-model", "engine.errors").ProjectError) as failure:
        module("language-model", "data").load_data(config)
    assert failure.value.hint.startswith(hint)


@pytest.fixture
def library_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace torchvision by one model, whose weights torch.hub loads from a file URL; return the file."""
    file = tmp_path / "server" / "tiny-12345678.pth"
    mean = [0.4, 0.5, 0.6]

    def make() -> Any:
        layers = torch.nn
        return layers.Sequential(
            layers.Conv2d(3, 8, 3), layers.ReLU(), layers.AdaptiveAvgPool2d(1), layers.Flatten(), layers.Linear(8, 1000)
        )

    def get_model(name: str, weights: Any = None, num_classes: int = 1000) -> Any:
        model = make()
        if weights is not None:
            model.load_state_dict(torch.hub.load_state_dict_from_url(file.as_uri()))
        return model

    steps = types.SimpleNamespace(mean=mean, std=mean)
    weights = types.SimpleNamespace(DEFAULT=types.SimpleNamespace(transforms=lambda: steps))
    library = types.ModuleType("torchvision")
    library.__dict__["models"] = types.SimpleNamespace(
        list_models=lambda module: ["tiny"], get_model=get_model, get_model_weights=lambda name: weights
    )
    monkeypatch.setitem(sys.modules, "torchvision", library)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    file.parent.mkdir()
    torch.save(make().state_dict(), file)
    return file


def test_pretrained_weights_come_from_the_cache_of_torch_hub_with_their_normalization(
    module: Modules, library_with_weights: Path
) -> None:
    config = module("image-classification", "config").Config(
        model="torchvision:tiny", pretrained=True, freeze="backbone"
    )
    about = {"classes": ["a", "b"], "size": 8, "channels": 3}
    for _ in range(2):  # the second time, the server is gone
        made = module("image-classification", "model").make_model(config, about)
        expected = torch.load(library_with_weights.parent.parent / "hub/hub/checkpoints" / library_with_weights.name)
        assert torch.equal(made.network[0].weight, expected["0.weight"])
        assert made.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
        assert made(torch.rand(2, 3, 8, 8)).shape == (2, 2)
        library_with_weights.unlink(missing_ok=True)
    optim = module("image-classification", "engine.optim")
    assert optim.freeze(made, ["backbone"]) == sum(each.numel() for each in made.network[0].parameters())
    assert all(parameter.requires_grad for parameter in made.network[-1].parameters())


def test_pretrained_weights_that_cannot_be_downloaded_are_an_error_with_a_way_out(
    module: Modules, library_with_weights: Path
) -> None:
    library_with_weights.unlink()
    config = module("image-classification", "config").Config(model="torchvision:tiny", pretrained=True)
    with pytest.raises(module("image-classification", "engine.errors").ProjectError) as failure:
        module("image-classification", "model").make_model(config, {"classes": ["a", "b"], "size": 8, "channels": 3})
    assert "cannot get the weights of `--model torchvision:tiny`" in str(failure.value)
    assert "omit `--pretrained`" in failure.value.hint


def test_other_ranks_print_nothing_after_they_left_the_group(
    module: Modules, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = module("image-classification", "engine.distributed")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        distributed.say(f"done on {rank}")
    assert capsys.readouterr().out == "done on 0\n"
