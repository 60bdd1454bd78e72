from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.presets import load_preset, preset_name
from pipeline.settings import Command, Settings, UserError, parse_command


class Frames(Settings):
    fps: float = 2.0
    area: tuple[float, ...] = ()


class Example(Command):
    program: ClassVar[str] = "python -m example"
    frames: Frames = Frames()
    name: str = "x"


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def parse(path: Path, *options: str) -> Example:
    return parse_command(Example, ["--config", str(path), *options])


def test_a_preset_is_merged_over_its_base_group_by_group(tmp_path: Path) -> None:
    write(
        tmp_path,
        first="frames: {fps: 3, area: [0.1, 0.2]}\nname: first",
        second="base: first.yaml\nframes: {area: [0.5]}",
        deeper__third="base: ../second.yaml\nname: third",
    )
    expected = Example(config=tmp_path / "deeper/third.yaml", frames=Frames(fps=3, area=(0.5,)), name="third")
    assert parse(tmp_path / "deeper/third.yaml") == expected
    assert parse(tmp_path / "deeper/third.yaml", "--frames.fps", "7").frames.fps == 7


def test_a_variant_is_chosen_by_name_and_may_be_a_base(tmp_path: Path) -> None:
    write(
        tmp_path,
        first="frames: {fps: 3}",
        many="base: first.yaml\nname: many\nvariants:\n  same: {}\n  a-0.1: {frames: {area: [1]}, name: one}",
        above="base: many.yaml:a-0.1\nname: above",
    )
    assert load_preset(tmp_path / "many.yaml:same").values == {"frames": {"fps": 3}, "name": "many"}
    assert load_preset(tmp_path / "many.yaml:a-0.1").values == {"frames": {"fps": 3, "area": [1]}, "name": "one"}
    assert parse(tmp_path / "above.yaml") == Example(
        config=tmp_path / "above.yaml", frames=Frames(fps=3, area=(1,)), name="above"
    )
    assert preset_name(tmp_path / "many.yaml:a-0.1") == "many:a-0.1"
    assert preset_name(tmp_path / "above.yaml") == "above"


def test_the_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    write(
        tmp_path,
        first="frames: {fsp: 3}",
        second="base: first.yaml\nframes: {fps: many}",
        many="variants: {one: {nmae: x}}",
    )
    with pytest.raises(UserError) as error:
        parse(tmp_path / "second.yaml", "--name", "y")
    assert f"{tmp_path}/first.yaml: unknown key frames.fsp; allowed here: area, fps" in str(error.value)
    assert f"{tmp_path}/second.yaml: frames.fps = 'many': " in str(error.value)
    with pytest.raises(UserError) as error:
        parse(tmp_path / "many.yaml:one", "--frames.fps", "few")
    assert f"{tmp_path}/many.yaml: unknown key nmae" in str(error.value)
    assert "; frames.fps = 'few': " in f"; {error.value}", "an option of the command line is in no file"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("loop.yaml", "around.yaml: base must not lead back to the same file: {0}/loop.yaml -> {0}/around.yaml -> "),
        ("alone.yaml", "alone.yaml: base = {0}/none.yaml: there is no such file"),
        ("number.yaml", "number.yaml: base = 3: must be the name of another preset"),
        ("many.yaml", "many.yaml holds several presets: give {0}/many.yaml:NAME with one of one, two"),
        ("many.yaml:", "many.yaml holds several presets"),
        ("many.yaml:three", "many.yaml has no variant three: give {0}/many.yaml:NAME with one of one, two"),
        ("number.yaml:one", "base = 3"),
        ("plain.yaml:one", "plain.yaml has no variants to choose one from"),
        ("empty.yaml:one", "empty.yaml has no variants to choose one from"),
        ("none.yaml:one", "cannot read the config file {0}/none.yaml: No such file"),
    ],
)
def test_a_preset_that_does_not_exist_is_refused(path: str, message: str, tmp_path: Path) -> None:
    write(
        tmp_path,
        loop="base: around.yaml",
        around="base: loop.yaml",
        alone="base: none.yaml",
        number="base: 3",
        many="variants: {one: {}, two: {name: y}}",
        plain="name: x",
        empty="variants: {one: }",
    )
    with pytest.raises(UserError) as error:
        parse(tmp_path / path)
    assert message.format(tmp_path) in str(error.value)
