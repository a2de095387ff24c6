import io, sys, tarfile
name, code = sys.argv[1:]
backend = """
import base64, io, json, os, sys, zipfile
def run():
    said = {}
    exec(CODE, {"said": said})
    return said
def build_wheel(folder, config=None, metadata=None):
    text = json.dumps(run())
    info = NAME + "-1.0.dist-info"
    files = {
        NAME + "_said.json": text,
        info + "/METADATA": "Metadata-Version: 2.1\\nName: " + NAME + "\\nVersion: 1.0\\n",
        info + "/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files[info + "/RECORD"] = "".join(path + ",,\\n" for path in files) + info + "/RECORD,,\\n"
    wheel = NAME + "-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, wheel), "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return wheel
"""
files = {
    "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n",
    "backend.py": f"NAME = {name!r}\nCODE = {code!r}\n" + backend,
    "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
}
out = io.BytesIO()
with tarfile.open(fileobj=out, mode="w:gz") as archive:
    for path, content in files.items():
        entry = tarfile.TarInfo(f"{name}-1.0/{path}")
        entry.size = len(content.encode())
        archive.addfile(entry, io.BytesIO(content.encode()))
sys.stdout.buffer.write(out.getvalue())
