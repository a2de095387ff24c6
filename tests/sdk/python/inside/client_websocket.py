"""A WebSocket: the credential in the handshake and in a frame."""

import os
import sys

from websockets.sync.client import connect

token = os.environ["API_TOKEN"]
try:
    with connect(sys.argv[1], additional_headers={"Authorization": f"Bearer {token}"}, open_timeout=15) as socket:
        for words in ("hello", f"my token is {token}", "bye"):
            socket.send(words)
            print(socket.recv(timeout=15))
except Exception as error:
    print("error:", type(error).__name__, error)
