"""What a host does of its own accord to start and stop guests: it loads images, gives storage, and takes it back."""
