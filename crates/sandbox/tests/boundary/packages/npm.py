import base64, hashlib, io, json, sys, tarfile
package = {"name": "greet", "version": "1.0.0", "bin": {"greet": "greet.js"}, "scripts": {"postinstall": "node greet.js > said"}}
files = {"package.json": json.dumps(package), "greet.js": "#!/usr/bin/env node\nconsole.log('hello from node')\n"}
out = io.BytesIO()
with tarfile.open(fileobj=out, mode="w:gz") as archive:
    for path, content in files.items():
        entry = tarfile.TarInfo("package/" + path)
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content.encode()))
data = out.getvalue()
version = dict(package, hasInstallScript=True, dist={
    "tarball": "https://registry.npmjs.org/greet/-/greet-1.0.0.tgz",
    "shasum": hashlib.sha1(data).hexdigest(),
    "integrity": "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode(),
})
listing = {"name": "greet", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
sys.stdout.buffer.write(json.dumps(listing).encode() + b"\n" + data)
