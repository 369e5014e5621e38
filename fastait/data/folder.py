"""Image folders: ``DIR/train/CLASS/*`` and ``DIR/test/CLASS/*``, any format that Pillow reads."""

from pathlib import Path

from fastait.data.decode import Contents, Item, Split, fingerprint
from fastait.errors import InputError


def folder_splits(root: Path) -> list[Split]:
    """The training and the test split of an image folder.

    Classes are numbered by the sorted names of ``train``'s folders; hidden files are passed over, every other file
    must be an image. Decoding applies EXIF orientation; grey, palette and transparent images become RGB.

    Raises:
        InputError: a folder is missing or empty, there is one class only, or a class stands only in ``test``; the
            message names it.
    """
    try:
        return _splits(root)
    except OSError as error:
        raise InputError(f"--data-dir {root} cannot be read: {error.strerror} ({error.filename})") from None


def _splits(root: Path) -> list[Split]:
    if not root.is_dir():
        raise InputError(f"--data-dir {root}: no such folder")
    classes = _class_names(root / "train")
    test_classes = _class_names(root / "test")
    if len(classes) < 2:
        raise InputError(f"{root / 'train'} holds one class only ({classes[0]}); a classifier needs at least two")
    unseen = [name for name in test_classes if name not in classes]
    if unseen:
        raise InputError(f"{root / 'test'} holds classes that train does not: {', '.join(unseen)}")
    return [_split(root, name, tuple(classes)) for name in ("train", "test")]


def unlabeled_split(root: Path) -> Split:
    """All images below ``root``, in whatever folders, without their labels; hidden files and folders are passed over.

    Raises:
        InputError: there is no such folder, or no file in it.
    """
    if not root.is_dir():
        raise InputError(f"--unlabeled {root}: no such folder")
    try:
        paths = sorted(
            path
            for path in root.rglob("*")
            if not any(part.startswith(".") for part in path.relative_to(root).parts) and path.is_file()
        )
        if not paths:
            raise InputError(f"--unlabeled {root} holds no images")
        source = fingerprint(root, paths)
    except OSError as error:
        raise InputError(f"--unlabeled {root} cannot be read: {error.strerror} ({error.filename})") from None
    return Split("unlabeled", source, lambda: Contents(len(paths), ("unlabeled",), [Item(str(p), 0, p) for p in paths]))


def _class_names(split: Path) -> list[str]:
    if not split.is_dir():
        raise InputError(f"{split}: no such folder; expected {split}/CLASS/IMAGE")
    names = sorted(path.name for path in split.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise InputError(f"{split} holds no class folders; expected {split}/CLASS/IMAGE")
    return names


def _split(root: Path, name: str, classes: tuple[str, ...]) -> Split:
    items: list[Item] = []
    paths: list[Path] = []
    for label, class_name in enumerate(classes):
        folder = root / name / class_name
        found = sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
        if folder.is_dir() and not found:
            raise InputError(f"{folder} holds no images")
        items += [Item(str(path), label, path) for path in found]
        paths += found
    return Split(name, fingerprint(root, paths), lambda: Contents(len(items), classes, items))
