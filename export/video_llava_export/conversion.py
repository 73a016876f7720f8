"""A model repository of format 1, in which code lay beside the weights, becomes a model folder of format 2.

OLD/                                 DIR/ID/
    manifest.json (format 1)             manifest.json (format 2)
    video_encoder/1/model.onnx           encoders/video_encoder.onnx
    video_encoder/1/model.onnx.data      encoders/video_encoder.onnx.data
    vicuna/1/weights/…                   language_model/…
    vicuna/1/model.json                  engine_arguments in the manifest
"""

import json
import shutil
from pathlib import Path
from typing import Any

from video_llava_server.manifest import LANGUAGE_MODEL, NAME, FileFacts, Manifest, ModelFolderError, encoder_path

from .check import check_files
from .exporter import MEDIA, created_by
from .external_weights import rename_weights, share_weights, weights_path
from .files import facts_of, link_all
from .model_folder import building, check_id, check_space, place, with_id
from .progress import Progress

OLD_FORMAT = 1
_OLD_GRAPHS = {medium: Path(f"{medium}_encoder/1/model.onnx") for medium in MEDIA}
_OLD_LANGUAGE_MODEL, _OLD_ENGINE_ARGUMENTS = Path("vicuna/1/weights"), Path("vicuna/1/model.json")


def convert(old: Path, into: Path, *, model_id: str | None = None, progress: Progress | None = None) -> Path:
    """Write the model of the repository `old`, which stays as it is, into a folder of `into`; returns the folder.

    The language model's files are hard links where the file system allows it. Raises `ModelFolderError` for a damaged
    `old`.
    """
    progress = progress or Progress()
    if model_id is not None:
        check_id(model_id)
    facts, engine_arguments = _read(old)
    files = {name: FileFacts(**file) for name, file in facts.pop("files").items()}
    if problems := check_files(old, files, hashes=True, progress=progress):
        raise ModelFolderError("\n  ".join((f"{old} is damaged:", *problems)))
    with building(into, report=progress.report) as folder:
        how = "linked" if _take_files(old, folder, files) else "copied"
        progress.report(f"{how} the language model of {old}; its code, configurations and plans are not taken")
        share_weights(*(folder / encoder_path(medium) for medium in MEDIA))
        manifest = Manifest(
            id=model_id or "",
            created_by=f"{created_by()} (converted from {facts.pop('created_by')})",
            engine_arguments=engine_arguments,
            files={
                path.relative_to(folder).as_posix(): facts_of(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            },
            **facts,
        )
        return place(folder, into, with_id(manifest), report=progress.report)


def _read(old: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The old manifest's facts, and the engine's arguments."""
    try:
        facts = json.loads((old / NAME).read_text(encoding="utf-8"))
        engine_arguments = json.loads((old / _OLD_ENGINE_ARGUMENTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelFolderError(f"{old} holds no model repository of format {OLD_FORMAT} ({exc})") from exc
    if (found := facts.pop("format", None)) != OLD_FORMAT:
        raise ModelFolderError(f"{old / NAME} has format {found!r}; only format {OLD_FORMAT} is converted")
    engine_arguments.pop("model", None)
    return facts, engine_arguments


def _take_files(old: Path, folder: Path, files: dict[str, FileFacts]) -> bool:
    """Fill `folder`; whether the language model could be linked, which is most of the bytes."""
    names = [Path(name) for name in files if Path(name).is_relative_to(_OLD_LANGUAGE_MODEL)]
    language_model = {folder / LANGUAGE_MODEL / name.relative_to(_OLD_LANGUAGE_MODEL): old / name for name in names}
    # Never linked: the onnx package refuses weights that have a second name.
    copies = {weights_path(folder / encoder_path(medium)): weights_path(old / _OLD_GRAPHS[medium]) for medium in MEDIA}
    for target in (*language_model, *copies):
        target.parent.mkdir(parents=True, exist_ok=True)
    if not (linked := link_all(language_model)):
        copies |= language_model
    check_space(folder, sum(source.stat().st_size for source in copies.values()))
    for target, source in copies.items():
        shutil.copyfile(source, target)
    for medium in MEDIA:
        rename_weights(old / _OLD_GRAPHS[medium], folder / encoder_path(medium))
    return linked
