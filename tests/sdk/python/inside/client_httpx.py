"""httpx with HTTP/2, and requests, each in one session: the second request goes over the kept connection."""

import os
import sys

import httpx
import requests

headers = {"authorization": f"Bearer {os.environ['API_TOKEN']}"}
with httpx.Client(http2=True, headers=headers, timeout=20) as client:
    for address in sys.argv[1:]:
        try:
            answer = client.get(address)
            print("httpx", answer.status_code, answer.http_version, answer.text)
        except httpx.HTTPError as error:
            print("httpx error:", error)
with requests.Session() as session:
    for address in sys.argv[1:]:
        try:
            answer = session.post(address, headers=headers, data={"token": os.environ["API_TOKEN"]}, timeout=20)
            print("requests", answer.status_code, answer.text)
        except requests.RequestException as error:
            print("requests error:", error)
