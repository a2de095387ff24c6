#!/bin/sh
# Runs the tests; exit code 0 means that the project is sound.
cd "$(dirname "$0")" && PYTHONDONTWRITEBYTECODE=1 exec python3 -m unittest discover -s tests -t . 2>&1
