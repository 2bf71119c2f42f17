"""A loopback server that speaks the judge protocol and answers by rules."""
