"""Container images as encrypted, layered block volumes: built by their owner, carried by anybody, run in a guest.

Reads in the order that bytes travel: a layer's tar becomes a volume state, two states differ in runs of blocks, `writer`
turns runs into blobs, `oci` carries them, `reader` verifies them and gives the volume back. Nothing here needs root,
a mount or a network.
"""
