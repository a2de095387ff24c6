import io, sys, zipfile
name, text = sys.argv[1:]
info = f"{name}-1.0.dist-info"
files = {
    f"{name}.py": f"def main():\n    print({text!r})\n",
    f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
}
files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
out = io.BytesIO()
with zipfile.ZipFile(out, "w") as archive:
    for path, content in files.items():
        archive.writestr(path, content)
sys.stdout.buffer.write(out.getvalue())
