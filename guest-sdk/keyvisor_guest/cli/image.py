"""`keyvisor image`: secure containers, built, moved and looked into. Registers the verbs, each in the module of its group."""

from __future__ import annotations

from keyvisor_guest.cli import (
    image_build,
    image_files,
    image_look,
    image_ocicrypt,
    image_run,
    image_serve,
    image_thin,
    image_transfer,
    image_wrap,
)
from keyvisor_policy.terminal import verb

app = verb("Secure containers: build them, look into them, move and run them.", group=True)
for command in (
    image_build.build,
    image_look.inspect,
    image_look.verify,
    image_files.ls,
    image_files.cat,
    image_files.extract,
    image_thin.export_thin,
    image_transfer.push,
    image_transfer.pull,
    image_run.run,
    image_serve.serve,
    image_wrap.rewrap,
    image_wrap.keyprovider,
):
    app.command()(command)
app.add_typer(image_ocicrypt.app, name="ocicrypt")
