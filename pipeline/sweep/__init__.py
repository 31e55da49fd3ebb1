"""The sweep: what is searched, and how Ray runs it."""
