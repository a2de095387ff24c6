"""gRPC: one answer, several answers, and the credential among the metadata."""

import os
import sys

import grpc

host = sys.argv[1]
credentials = grpc.ssl_channel_credentials()
metadata = (("authorization", f"Bearer {os.environ['API_TOKEN']}"),)
with grpc.secure_channel(f"{host}:443", credentials) as channel:
    try:
        once = channel.unary_unary("/notes.Notes/Once")
        answer, called = once.with_call(b"hello", metadata=metadata, timeout=15)
        print("once", answer.decode(), dict(called.trailing_metadata()))
        thrice = channel.unary_stream("/notes.Notes/Thrice")
        print("thrice", [answer.decode() for answer in thrice(b"again", metadata=metadata, timeout=15)])
    except grpc.RpcError as error:
        print("error:", error.code().name, error.details())
