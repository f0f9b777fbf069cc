"""A volume as a read-only file system of the kernel's, through its FUSE protocol and no library."""
