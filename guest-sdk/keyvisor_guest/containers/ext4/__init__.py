"""ext4 volumes in ordinary files: `volume` writes them through libext2fs, `reading` reads them by itself."""
