"""What policies know of PKCS#11: names and kinds, as data. No module and no protocol."""
