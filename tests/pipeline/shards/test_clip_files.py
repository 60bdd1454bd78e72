from pipeline.shards.clip_files import ClipFiles
from pipeline.temporary import temporary_database

PATHS = ["a/cam.mp4", "b/cam.mkv", "b/c/cam.mp4", "bb/cam.mp4", "v_x.1.avi", "v.2/y.webm", "\udcff.mp4"]


def test_clips_are_found_by_the_end_of_their_paths_and_the_unnamed_are_counted() -> None:
    with temporary_database() as database:
        files = ClipFiles(database, PATHS)
        found = {path: files.of_path(path) for path in ("b/cam.mp4", "c/cam", "/a/cam.mp4", "x.1", "x.2", "\udcff.avi")}
        assert found == {
            "b/cam.mp4": ["b/cam.mkv"],  # not bb/, and of any extension
            "c/cam": ["b/c/cam.mp4"],
            "/a/cam.mp4": ["a/cam.mp4"],
            "x.1": ["v_x.1.avi"],  # ActivityNet
            "x.2": [],
            "\udcff.avi": ["\udcff.mp4"],
        }
        assert files.unnamed() == 2
        assert files.of_names(["x", "cam"]) == ["a/cam.mp4", "b/c/cam.mp4", "b/cam.mkv", "bb/cam.mp4"]
        assert files.unnamed() == 1
