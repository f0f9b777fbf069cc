"""An image file as the host reads it: where the header is, and which pages go where with which tweaks (formats, E).

The host believes what record and IPIB say, since it has no key to know better; the firmware measures what it is given.
Knows no firmware and no storage.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from keyvisor_guest.errors import ImageUnusable
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.se_image_layout import check_unmeasured, find_header, read_layout
from keyvisor_guest.wire.se_pages import Component

__all__ = ["LoadedImage", "load"]


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """`header` is handed to the firmware as it is; the components' pages ascend in address, and end before `end`."""

    header: bytes = field(repr=False)
    components: tuple[Component, ...]
    end: int


def load(data: bytes) -> LoadedImage:
    """The parts of an image file. Raises ImageUnusable for what is none, and where a byte stands that nothing measures."""
    try:
        header = find_header(data)
        layout = read_layout(data, len(header))
        check_unmeasured(data, layout)
    except Malformed as error:
        raise ImageUnusable(
            f"no image that starts a guest: {error}; start the whole file that the owner built, unchanged"
        ) from error
    components = tuple(Component(place, data[place.address : place.end]) for place in layout.components)
    return LoadedImage(header, components, layout.components[-1].end)
