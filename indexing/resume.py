"""A job that can be killed and continued: its settings, and a folder of finished parts, inside the output folder."""

import json
from typing import Any

from pipeline.differences import differences
from pipeline.files import as_json
from pipeline.ray.actors import KEPT
from pipeline.reading import reading
from pipeline.settings import UserError
from pipeline.storage import Storage

JOB = "job.json"


def begin(out: Storage, folder: str, identity: dict[str, Any]) -> None:
    """Open the folder of parts: a new one, or that of the same job, which then continues.

    Raises:
        UserError: the folder holds parts of another job, or cannot be written.
    """
    name = f"{folder}/{JOB}"
    try:
        if out.size(name) is None:
            out.remove(folder)
            out.write(name, as_json(identity))
            return
        out.clean(folder)
        with reading(f"{out}/{name}", "valid JSON", f"Remove {out}/{folder}"):
            recorded = dict(json.loads(out.read(name)))
    except OSError as error:
        raise cannot_write(out, error) from error
    if difference := differences(recorded, identity):
        raise UserError(
            f"{out}/{folder} holds finished parts of another job: {difference}. Choose another --out or remove it"
        )


def cannot_write(out: Storage, error: OSError) -> UserError:
    """The sentence for an output that cannot be written, a full disk for instance."""
    return UserError(f"cannot write to {out}: {error.strerror or error}; {KEPT}")
