"""Secure containers: layered images as block differences of an ext4 volume (secure-containers).

In the order that bytes travel: `inflating` and `tar_layers` read a layer, `ext4` makes the volume of it, `volume_states`
keeps one state per layer, `differences` finds the blocks that changed. Works without root, mount and network.
"""
