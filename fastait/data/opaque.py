"""Images with transparent pixels: what they look like on white.

White, because that is what viewers and browsers show such images on, so what whoever labelled them saw; and because
drawings in black on nothing, the most usual kind, would be gone on black.
"""

import numpy as np
from PIL import Image

_SCALES = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the values of PNGs of fewer than 8 bits by, but not the value that is transparent."""


def opaque(image: Image.Image) -> Image.Image:
    """RGB, in 8 bits: an image's colours where it is opaque, white where it is transparent, in between in between.

    Args:
        image: of a mode with a fixed range. The value that is transparent, if one is, must be as ``transparent_value``
            gives it.
    """
    alpha = alpha_of(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if alpha is None:
        return image.convert("RGB")
    colours = np.asarray(_straight(image).convert("RGBA"))[..., :3].astype(np.uint16)
    weight = alpha.astype(np.uint16)[..., None]
    return Image.fromarray(((colours * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8))


def alpha_of(image: Image.Image) -> np.ndarray | None:
    """uint8 [H, W], 255 where nothing is transparent; None if the image says nothing of it."""
    if image.mode in ("1", "L", "RGB") or image.mode.startswith("I;16"):
        value = image.info.get("transparency")
        if not isinstance(value, int | tuple):
            return None
        pixels = np.asarray(image)
        if image.mode == "1":
            pixels = pixels.astype(np.uint8) * 255
        clear = pixels == np.asarray(value)
        return np.where(clear.all(axis=-1) if clear.ndim == 3 else clear, 0, 255).astype(np.uint8)
    if not image.has_transparency_data:
        return None
    return np.asarray(_straight(image).convert("RGBA"))[..., 3]


def transparent_value(image: Image.Image) -> int | tuple[int, ...] | None:
    """The one value of a grey or RGB image that is transparent, in the range of the pixels; None if there is none.

    A PNG states it in its own depth. To be called before the pixels are loaded, which forgets the depth.
    """
    value = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    depth = tile[0][3] if tile else None
    if image.mode == "RGB" and isinstance(value, tuple):
        return tuple(part >> 8 for part in value) if depth == "RGB;16B" else value
    if image.mode == "L" and isinstance(value, int):
        return value * _SCALES.get(depth, 1) if isinstance(depth, str) else value
    return None


def _straight(image: Image.Image) -> Image.Image:
    """Pillow turns grey values that were multiplied by their alpha into no other mode at once."""
    return image.convert("LA") if image.mode == "La" else image
