"""The parts of the documentation that are made from JSON and code, and the site; run from a checkout."""
