"""`keyvisor image`: secure containers, built, moved and looked into. Registers the verbs, each in the module of its group."""

from __future__ import annotations

from keyvisor_guest.cli.image_build import build
from keyvisor_guest.cli.image_look import inspect
from keyvisor_policy.terminal import verb

app = verb("Secure containers: build, look into, move.", group=True)
app.command()(build)
app.command()(inspect)
