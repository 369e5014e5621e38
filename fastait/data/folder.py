"""Image folders: ``DIR/train/CLASS/*`` and ``DIR/test/CLASS/*``, any plain format that Pillow reads."""

from collections.abc import Callable
from pathlib import Path

from fastait.data.decode import Contents, Item, Split
from fastait.data.files import STAND_INS, fingerprint, walk
from fastait.data.names import of_folder
from fastait.runtime.errors import InputError, one_line


def folder_splits(
    root: Path, *, needs_train: bool = True, note: Callable[[str], None] = lambda text: None
) -> tuple[Split | None, Split]:
    """The training and the test split of an image folder.

    Classes are numbered by the sorted names of ``train``'s folders. Their images lie in them and in folders below, in
    the order of torchvision's ``ImageFolder``; hidden files are passed over, every other file must be an image. A name
    is the same in every Unicode spelling. Where there is no ``test``, one of ``STAND_INS`` is taken.

    Args:
        root: the folder.
        needs_train: if not, it may lack ``train``; the classes are then the test split's.
        note: called with a line if there is a stand-in.

    Raises:
        InputError: a folder is missing or empty, there is one class only, or a class stands only in ``test``; the
            message names it.
    """
    try:
        return _splits(root, needs_train, note)
    except OSError as error:
        raise InputError(
            f"--data-dir {one_line(root)} cannot be read: {error.strerror} ({one_line(error.filename)})"
        ) from None


def _splits(root: Path, needs_train: bool, note: Callable[[str], None]) -> tuple[Split | None, Split]:
    if not root.is_dir():
        raise InputError(f"--data-dir {one_line(root)}: no such folder")
    train, test = root / "train", tested_folder(root)
    if not needs_train and not train.is_dir():
        if test.name in STAND_INS:
            note(f"{one_line(root)} has no folder test, so the test images are those of {test.name}")
        classes = _Classes(test)
        return None, classes.split("test", root, tuple(classes.folders))
    training = _Classes(train)
    names = tuple(training.folders)
    tested = _Classes(test)
    if test.name in STAND_INS:
        note(f"{one_line(root)} has no folder test, so the test images are those of {test.name}")
    if len(names) < 2:
        raise InputError(
            f"{one_line(train)} holds one class only ({one_line(names[0])}); a classifier needs at least two"
        )
    unseen = [name for name in tested.folders if name not in training.folders]
    if unseen:
        raise InputError(f"{one_line(test)} holds classes that train does not: {', '.join(map(one_line, unseen))}")
    return training.split("train", root, names), tested.split("test", root, names)


def tested_folder(root: Path) -> Path:
    """Where the test images lie: ``test``, or what stands in for it."""
    found = [root / name for name in ("test", *STAND_INS) if (root / name).is_dir()]
    return found[0] if found else root / "test"


def unlabeled_split(root: Path) -> Split:
    """All images below ``root``, in whatever folders, without their labels; hidden files and folders are passed over.

    Raises:
        InputError: there is no such folder, or no file in it.
    """
    try:
        if not root.is_dir():
            raise InputError(f"--unlabeled {one_line(root)}: no such folder")
        paths = sorted(walk(root))
        if not paths:
            raise InputError(f"--unlabeled {one_line(root)} holds no images")
        source = fingerprint(root, paths)
    except OSError as error:
        raise InputError(
            f"--unlabeled {one_line(root)} cannot be read: {error.strerror} ({one_line(error.filename)})"
        ) from None
    items = [Item(one_line(path), 0, path) for path in paths]
    return Split("unlabeled", source, lambda: Contents(len(items), ("unlabeled",), items))


class _Classes:
    """The class folders of ``part``.

    Attributes:
        folders: a class's name -> its folders; several where its name is spelt in several ways.
        broken: links that are broken, in the place of a class folder.
    """

    def __init__(self, part: Path):
        self.part = part
        if not part.is_dir():
            raise InputError(f"{one_line(part)}: no such folder; expected {one_line(part)}/CLASS/IMAGE")
        here = sorted(path for path in part.iterdir() if not path.name.startswith("."))
        found: dict[str, list[Path]] = {}
        for path in here:
            if path.is_dir():
                found.setdefault(of_folder(path.name), []).append(path)
        if not found:
            raise InputError(f"{one_line(part)} holds no class folders; expected {one_line(part)}/CLASS/IMAGE")
        self.folders = dict(sorted(found.items()))
        self.broken = [path for path in here if path.is_symlink() and not path.exists()]

    def split(self, name: str, root: Path, classes: tuple[str, ...]) -> Split:
        """Its images, labelled by their places in ``classes``."""
        files = [(0, path) for path in self.broken]  # bad images, so that they are not passed over in silence
        for label, class_name in enumerate(classes):
            folders = self.folders.get(class_name, [])
            found = [path for folder in folders for path in walk(folder)]
            if folders and not found:
                raise InputError(f"{one_line(folders[0])} holds no images")
            files += [(label, path) for path in found]
        items = [Item(one_line(path), label, path) for label, path in files]
        # A class more elsewhere gives the same files other labels.
        source = f"{classes!r} {fingerprint(root, [path for _, path in files])}"
        return Split(name, source, lambda: Contents(len(items), classes, items))
