"""`keyvisor image export-thin`: an image's layers as devices of a thin pool."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from keyvisor_guest.cli.image_key_options import KeyOptions, with_key_options
from keyvisor_guest.cli.image_opening import opened
from keyvisor_guest.cli.image_places import ImageArgument, find_secure
from keyvisor_guest.cli.request_options import ForceOption, output_option
from keyvisor_guest.containers.describing import read_maps
from keyvisor_guest.containers.thin_metadata import thin_xml

__all__ = ["export_thin"]


@with_key_options
def export_thin(
    keys: KeyOptions,
    image: ImageArgument,
    output: Annotated[
        Path | None, output_option("-o", "--output", text="Write it there; without it to standard output.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write thin-pool metadata for `thin_restore`: a device a layer, each a snapshot of the one below.

    No key is needed. With one, the metadata is written only for an image that is as its owner put it together.
    """
    if keys.given:
        with opened(keys, image) as reader:
            maps = reader.maps
    else:
        layout, _, manifest = find_secure(image)
        maps = read_maps(layout.blobs, manifest)
    lines = (f"{line}\n" for line in thin_xml([one.thin for one in maps]))
    if output is None:
        sys.stdout.writelines(lines)
    else:
        with output.open("w" if force else "x") as file:
            file.writelines(lines)
