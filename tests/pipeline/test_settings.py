from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import AliasChoices, Field

from pipeline.settings import Command, Settings, UserError, parse_command, run_command
from pipeline.storage import Uri


class Frames(Settings):
    fps: float = Field(2.0, gt=0)
    """Frames per second."""
    area: tuple[float, float] = (0.1, 0.2)
    min_side: int = 1


class Example(Command):
    """Does something."""

    program: ClassVar[str] = "python -m example"
    data: Path
    """Folder of the data."""
    frames: Frames = Frames()
    fast: bool = False
    keep_all: bool = False
    limit: Literal["fast"] | int | None = None
    """How much."""
    mode: Literal["no", "bf16"] = "no"
    name: str = "x"
    folder: Path = Path()
    uri: Uri = ""
    paths: tuple[Path, ...] = ()


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "preset.yaml"
    path.write_text("data: from-yaml\nframes: {fps: 3, area: [0.3, 0.4]}\n")
    return path


def test_command_line_wins_over_yaml_over_default(preset: Path) -> None:
    command = parse_command(Example, ["--config", str(preset), "--frames.fps", "4"])
    assert command.data == Path("from-yaml")
    assert command.frames == Frames(fps=4, area=(0.3, 0.4))
    assert parse_command(Example, ["--data", "x", "--frames.area", "0,1"]).frames == Frames(area=(0, 1))


def test_words_are_joined_by_dashes_or_underscores() -> None:
    for words in (["--keep-all"], ["--keep_all"], ["--keep-all", "true"], ["--keep-all=true"]):
        assert parse_command(Example, ["--data", "x", *words]).keep_all
    for words in (["--no-keep-all"], ["--keep-all=false"]):
        assert not parse_command(Example, ["--data", "x", "--keep_all", *words]).keep_all
    assert parse_command(Example, ["--data", "x", "--frames.min-side", "-3"]).frames.min_side == -3


def test_help_names_no_types(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command(Example, ["--help"])
    message = capsys.readouterr().out
    assert "--frames.fps NUMBER" in message
    assert "--data PATH" in message
    assert "--limit {fast,NUMBER}" in message
    assert "(default: 2.0)" in message
    assert not any(word in message for word in ("None", "float", "tuple["))


@pytest.mark.parametrize("words", [["--frames.area=0,1"], ["--frames.area", "[0, 1]"], ["--frames.area", "0,1"]])
def test_lists_are_separated_by_commas_or_json(words: list[str]) -> None:
    assert parse_command(Example, ["--data", "x", *words]).frames.area == (0, 1)


def test_a_broken_list_is_named() -> None:
    for value in ("[0,", "a,b", "1"):
        with pytest.raises(UserError, match=r"area|list"):
            parse_command(Example, ["--data", "x", "--frames.area", value])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--fast"], True),
        (["--no-fast"], False),
        (["--fast", "true"], True),
        (["--fast", "False"], False),
        (["--fast=false"], False),
        (["--fast=true"], True),
    ],
)
def test_flags_take_a_value_or_none(words: list[str], expected: bool) -> None:
    assert parse_command(Example, ["--data", "x", *words]).fast is expected
    assert parse_command(Example, [*words, "--data", "true"]).data == Path("true")


@pytest.mark.parametrize("words", [["--folder="], ["--folder", ""], ["--paths", ""], ["--paths=a,"]])
def test_an_empty_path_is_not_the_current_folder(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"(folder|paths) = .*: is empty: give a path, or leave the option out"):
        parse_command(Example, ["--data", "x", *words])


def test_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "from-environment")
    with pytest.raises(UserError, match="--data is required"):
        parse_command(Example, [])


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("frames: {fsp: 3}", "bad.yaml: unknown key frames.fsp; allowed here: area, fps"),
        ("frames: {fps: -1}", "frames.fps = -1: must be more than 0"),
        ("framez: 1", "unknown key framez; allowed here: config, data, fast, folder, frames"),
        ("frames: {fps: 3}\nFrames: {min_side: 2}", "unknown key Frames; allowed here: config, data"),
        ("config: other.yaml", "bad.yaml: a preset names the one that it builds on as `base`, not `config`"),
        ("- a list", "must hold `key: value` lines, not a list"),
        (
            "data: x\nframes: {fps: 3}\nfast: true\nframes: {min_side: 2}",
            "the key frames is given twice, in lines 2 and 4",
        ),
        ("frames:\n  fps: 3\n\n  'fps': 4", "the key fps is given twice, in lines 2 and 4"),
        ("no: 1", "line 1: a key must be text, not no"),
        ("? [a]\n: 1", "line 1: a key must be text, not a list or mapping"),
        ("frames: {fps: .inf}", "frames.fps = inf: must be a finite number"),
        ("frames: {area: [.nan, 0.4]}", "frames.area = [nan, 0.4]: must be a finite number"),
        ("frames: {fps: true}", "frames.fps = True: must be a number; YAML reads yes and on as true"),
        ("frames: {min_side: off}", "frames.min_side = False: must be a number"),
        ("limit: yes", "limit = True: must be a number"),
        ("folder: no", "folder = False: Input is not a valid path; YAML reads yes, no, on and off without quotes"),
        ("uri: 7", "uri = 7: Input should be a valid string; put it in quotes if it is text"),
        ("mode: no", "mode = False: Input should be 'no' or 'bf16'; YAML reads yes, no, on and off without quotes"),
        ("name: on", "name = True: Input should be a valid string; YAML reads yes, no, on and off without quotes"),
        ("name: 2017", "name = 2017: Input should be a valid string; put it in quotes if it is text"),
        ("frames: {min_side: 1e3}", "unable to parse string as an integer; write it without an exponent, as 1000"),
        ("frames: {min_side: 010}", "line 1: YAML reads 010 as a number in base 8"),
        ("frames:\n  fps: 1:30", "line 2: YAML reads 1:30 as a number in base 60"),
        ("frames:", "frames = None: must be a group of options, nested below it; there are none"),
        ("frames: {fps: }", "frames.fps = None: Input should be a valid number; no value after the colon"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_yaml_is_named(tmp_path: Path, yaml: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml)
    with pytest.raises(UserError) as error:
        parse_command(Example, ["--data", "x", "--config", str(path)])
    assert message in str(error.value)


def test_accepted_yaml(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    text = "frames: &a {<<: {fps: 3}, fps: 1e-4, area: [0.1, 1e-1]}\nfast: yes\nmode: 'no'\nname: ünï\nlimit: 0x10\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(text, encoding=encoding)
        command = parse_command(Example, ["--data", "x", "--config", str(path)])
        assert command.frames == Frames(fps=1e-4, area=(0.1, 0.1)), "a key may stand beside one that << merges"
        assert (command.fast, command.mode, command.name, command.limit) == (True, "no", "ünï", 16)


def test_missing_config_file_is_named() -> None:
    with pytest.raises(UserError, match=r"cannot read the config file nowhere\.yaml"):
        parse_command(Example, ["--config", "nowhere.yaml"])


def test_unknown_option_suggests_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse_command(Example, ["--data", "x", "--frames.fsp", "4"])
    assert exit_info.value.code == 2
    assert "unknown option --frames.fsp; did you mean --frames.fps" in capsys.readouterr().err


def test_help_shows_description_and_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command(Example, ["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m example --data PATH [--option VALUE ...]\n")
    assert "Does something." in text
    assert "Folder of the data." in text
    assert "Frames per second. (default: 2.0)" in text


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (UserError("the key is wrong"), 2, "error: the key is wrong\n"),
        (OSError(28, "No space left on device", "out/shard.tar"), 2, "error: out/shard.tar: No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "error: out of memory: MemoryError\n"),
        (RuntimeError("CUDA out of memory. Tried\nto"), 2, "error: out of memory: CUDA out of memory. Tried to\n"),
        (ZeroDivisionError("by\nzero"), 70, "error: this is a fault of the program, please report it: ZeroDivisionErr"),
    ],
)
def test_faults_end_in_one_line(
    error: BaseException, status: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["example", "--data", "x"])

    def main(command: Example) -> int:
        raise error

    with pytest.raises(SystemExit) as exit_info:
        run_command(Example, main)
    assert exit_info.value.code == status
    captured = capsys.readouterr().err
    assert captured.startswith(says)
    assert captured.count("\n") == 1
    assert ("test_settings.py:" in captured) == (status == 70), "where a fault arose is part of its line"


@pytest.mark.parametrize(
    ("option", "value"), [(["-k", "3"], 3), (["--k", "3"], 3), (["--k=3"], 3), (["-k=3"], 3), (["--many", "3"], 3)]
)
def test_an_option_of_one_letter_has_one_dash_or_two(option: list[str], value: int) -> None:
    class Short(Command):
        program: ClassVar[str] = "python -m short"
        k: int = Field(5, validation_alias=AliasChoices("k", "many"))

    assert parse_command(Short, option).k == value
