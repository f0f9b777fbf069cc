"""What the tests of secure containers share."""

import shutil

import pytest


@pytest.fixture
def program():
    """`program(name, package)`: where an optional program is; the test is skipped with a reason where it is not."""

    def find(name, package):
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        if found is None:
            pytest.skip(f"`{name}` is not installed: it comes with Debian's `{package}`")
        return found

    return find
