"""What the checks share: where the files are, and a list of what is wrong."""

import pathlib

DEPLOY = pathlib.Path(__file__).resolve().parent.parent
UID = 65532


class Wrong:
    """Collects what is wrong, so that one run names everything."""

    def __init__(self):
        self.found = []
        self.looked = 0

    def that(self, holds, what):
        """`holds` has to be true; otherwise `what` is said."""
        self.looked += 1
        if not holds:
            self.found.append(what)

    def refused(self, call, what):
        """`call` has to raise something."""
        self.looked += 1
        try:
            call()
        except Exception:  # noqa: BLE001 - any refusal will do; what matters is that there is one
            return
        self.found.append(f"{what} was taken")
