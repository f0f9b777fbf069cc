"""`keyvisor image rewrap` and `keyprovider`: keys wrapped for others, and a guest that wraps and unwraps for ocicrypt."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli.image_hsm_keys import ImageGuestOption, hsm_key, is_hsm_key, key_uri
from keyvisor_guest.cli.image_key_options import KeyOptions, with_key_options
from keyvisor_guest.cli.image_places import ImageArgument, find_secure
from keyvisor_guest.cli.image_recipients import jwe_recipients, wrapped_for
from keyvisor_guest.cli.options import JsonOption, StateOption
from keyvisor_guest.cli.owner_files import print_fields
from keyvisor_guest.containers import keyprovider as protocol
from keyvisor_guest.containers.key_wrapping import Context
from keyvisor_guest.containers.release import release_bytes
from keyvisor_guest.containers.rewrapping import rewrap as rewrap_image
from keyvisor_policy.terminal import print_json

__all__ = ["keyprovider", "rewrap"]


@with_key_options
def rewrap(
    keys: KeyOptions,
    image: ImageArgument,
    recipients: Annotated[
        list[str],
        typer.Option(
            "--recipient",
            metavar="jwe:FILE|pkcs11:URI",
            help="Wrap the key for this public key or certificate (RSA, PEM), or for a key in the guest's HSM; can be"
            " repeated.",
        ),
    ],
    drop_others: Annotated[
        bool,
        typer.Option(
            "--drop-others",
            help="Take out those for whom the key was wrapped before. Who has opened it once still has it.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Wrap an image's key for other recipients: the manifest changes, no layer does, and neither does the root.

    The key options say how the image is opened now, which is verified first.
    """
    files = jwe_recipients([one for one in recipients if not is_hsm_key(one)])
    uris = [key_uri(one) for one in recipients if is_hsm_key(one)]
    layout, descriptor, manifest = find_secure(image)
    release = keys.release(manifest)
    wrapped = dict(wrapped_for(files, release_bytes(release), os.urandom))
    for uri in uris:
        from keyvisor_guest.containers.hsm_wrapping import wrap_release

        with hsm_key(uri, keys.guest, keys.state) as key:
            scheme, text = wrap_release(key, release, os.urandom)
        wrapped[scheme] = f"{wrapped[scheme]},{text}" if scheme in wrapped else text
    made = rewrap_image(layout, descriptor, release, wrapped, drop=drop_others)
    fields = {"digest": made.image.digest, "root": manifest.image_root.hex()}
    if as_json:
        print_json({**fields, "recipients": made.schemes})
    else:
        print_fields({**fields, "recipients": ", ".join(made.schemes)})


def keyprovider(
    guest: ImageGuestOption = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="pkcs11:URI", help="A key in the guest's HSM: RSA or AES."),
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option("--secret", metavar="NAME", help="An AES-256 key in the guest's secret store."),
    ] = None,
    state: StateOption = None,
) -> None:
    """Answer one request of ocicrypt: JSON from standard input, JSON to standard output.

    In ocicrypt's configuration: {"key-providers": {"keyvisor": {"cmd": {"path": "keyvisor", "args": ["image", "keyprovider",
    "--guest", "NAME", "--key", "pkcs11:object=LABEL"]}}}}. Ordinary images with whole layers encrypted can be opened
    so in this guest only.
    """
    if (key is None) == (secret is None):
        raise typer.BadParameter("with which key? give --key pkcs11:URI or --secret NAME, and not both")
    if guest is None:
        raise typer.BadParameter("of which guest? give --guest NAME", param_hint="--guest")
    request = sys.stdin.buffer.read(protocol.MAX_REQUEST + 1)
    answer = (
        _answer_by_hsm(request, key, guest, state)
        if key is not None
        else _answer_by_secret(request, str(secret), guest, state)
    )
    sys.stdout.buffer.write(answer + b"\n")


def _answer_by_hsm(request: bytes, key: str, guest: str, state: Path | None) -> bytes:
    from keyvisor_guest.containers.hsm_wrapping import open_for, wrap_for

    with hsm_key(key_uri(key), guest, state) as found:
        return protocol.answer(
            request,
            lambda options: wrap_for(found, options, Context.LAYER_OPTIONS, os.urandom).data,
            lambda annotation: open_for(found, annotation, Context.LAYER_OPTIONS),
        )


def _answer_by_secret(request: bytes, secret: str, guest: str, state: Path | None) -> bytes:
    from keyvisor_guest.containers.firmware_sealing import (
        open_in_firmware,
        protected_aes_key,
        seal_in_firmware,
    )
    from keyvisor_guest.guest import Guest

    found = protected_aes_key(Guest(guest, state=state).secrets, secret)
    return protocol.answer(
        request,
        lambda options: seal_in_firmware(found, options, Context.LAYER_OPTIONS, os.urandom),
        lambda annotation: open_in_firmware(found, annotation, Context.LAYER_OPTIONS),
    )
