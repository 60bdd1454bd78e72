import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.outputs import MARKER
from pipeline.preview.__main__ import BATCH, PAGE, SHEET, PreviewCommand, main
from pipeline.settings import UserError, parse_command
from pipeline.storage import open_storage


@pytest.mark.parametrize("dataset", ["clip_dataset", "image_dataset", "triplet_dataset"])
def test_page_sheet_and_batch_are_written(
    dataset: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(dataset)
    before = sorted(path.name for path in folder.iterdir())
    capsys.readouterr()
    main(PreviewCommand(shards=str(folder), out=tmp_path / "out", samples=4, batch=True))
    message = capsys.readouterr().out
    assert str(tmp_path / "out" / PAGE) in message
    assert str(tmp_path / "out" / SHEET) in message
    assert message.startswith("4 of ")
    assert ("past and future frames lie " in message) == (dataset != "image_dataset")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MARKER, BATCH, SHEET, PAGE]
    with Image.open(tmp_path / "out" / SHEET) as sheet, Image.open(tmp_path / "out" / BATCH) as batch:
        sheet.load()
        assert batch.width > (1700 if dataset != "image_dataset" else 1000)
        assert len(batch.convert("RGB").getcolors(1 << 24) or ()) > 1000
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_page_depends_on_the_seed_only(clip_dataset: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        main(PreviewCommand(shards=str(clip_dataset), out=tmp_path / name, samples=2, draws=1, seed=seed))
    first, again, other = ((tmp_path / name / PAGE).read_text() for name in ("first", "again", "other"))
    assert first == again
    assert first != other


def test_a_dataset_in_an_object_store(image_dataset: Path, bucket: str, tmp_path: Path) -> None:
    storage = open_storage(f"{bucket}/shown/{image_dataset.name}")
    for path in image_dataset.iterdir():
        storage.write(path.name, path.read_bytes())
    main(PreviewCommand(shards=str(storage), out=tmp_path / "remote", samples=3))
    main(PreviewCommand(shards=str(image_dataset), out=tmp_path / "local", samples=3))
    for name in (PAGE, SHEET):
        assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_output_into_a_dataset_is_refused(image_dataset: Path, tmp_path: Path) -> None:
    for out in (image_dataset, image_dataset / "preview", tmp_path / "link" / "preview"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(image_dataset)
        with pytest.raises(UserError, match="is inside the dataset"):
            main(PreviewCommand(shards=str(image_dataset), out=out))


def test_the_dataset_is_an_argument_or_an_option() -> None:
    for arguments in (["a/b"], ["--shards", "a/b"], ["--samples", "3", "a/b"]):
        assert parse_command(PreviewCommand, arguments).uri == "a/b"
    for arguments in ([], ["a/b", "--shards", "a/b"]):
        with pytest.raises(UserError, match=r"give one dataset to show: python -m pipeline\.preview DATASET"):
            parse_command(PreviewCommand, arguments)


def test_the_ranges_come_from_a_training_or_from_options() -> None:
    assert parse_command(PreviewCommand, ["a/b", "--sandwich.unit", "seconds"]).sandwich.past_offset == (1.5, 2.5)
    with pytest.raises(UserError, match=r"give --training or --sandwich\.\*, not both"):
        parse_command(PreviewCommand, ["a/b", "--sandwich.unit", "seconds", "--training", "configs/tiny.yaml"])


def test_torch_and_dali_are_not_imported(image_dataset: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; started = time.perf_counter(); import pipeline\n"
        "assert time.perf_counter() - started < 0.3\n"
        "from pipeline.preview.__main__ import PreviewCommand, main\n"
        "main(PreviewCommand(shards=sys.argv[1], out=sys.argv[2], samples=1))\n"
        "assert not {'torch', 'nvidia', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(image_dataset), str(tmp_path)], check=True)


def test_files_of_other_programs_are_not_replaced(image_dataset: Path, tmp_path: Path) -> None:
    command = PreviewCommand(shards=str(image_dataset), out=tmp_path, samples=1)
    for name in (PAGE, SHEET):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(UserError, match=rf"{name} was not made by `python -m pipeline\.preview`; choose another"):
            main(command)
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"mine")]
        (tmp_path / name).unlink()
    for _ in range(2):
        main(command)  # its own files are replaced


def test_damaged_datasets_are_refused(image_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished shard dataset"):
        main(PreviewCommand(shards=str(tmp_path), out=tmp_path / "out"))
    copy = Path(shutil.copytree(image_dataset, tmp_path / "copy"))
    for name in ("index.parquet", "rejects.parquet"):
        (copy / name).write_bytes(b"no table")
        with pytest.raises(UserError, match=r"cannot read the tables of .*copy .*pipeline\.verify"):
            main(PreviewCommand(shards=str(copy), out=tmp_path / "out"))
        shutil.copy(image_dataset / name, copy / name)
    assert not (tmp_path / "out").exists()
