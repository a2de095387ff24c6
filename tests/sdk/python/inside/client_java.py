"""The HTTP client of the Java runtime itself, with its own TLS and its own list of authorities: asks for each address and
shows what came. There is no Java compiler here, so the runtime's classes are called from Python, in the same process."""

import os
import sys
from pathlib import Path

import jpype

[library] = Path("/workspace/tools/java").rglob("libjvm.so")
jpype.startJVM(str(library), "-Xshare:auto", "-XX:TieredStopAtLevel=1")
Client = jpype.JClass("java.net.http.HttpClient")
Request = jpype.JClass("java.net.http.HttpRequest")
Bodies = jpype.JClass("java.net.http.HttpResponse$BodyHandlers")
Address = jpype.JClass("java.net.URI")
client = Client.newHttpClient()
for address in sys.argv[1:]:
    request = Request.newBuilder(Address.create(address)).header("authorization", f"Bearer {os.environ['API_TOKEN']}").build()
    try:
        response = client.send(request, Bodies.ofString())
        print(response.statusCode(), response.version(), response.body())
    except jpype.JException as error:
        print("error:", error)
