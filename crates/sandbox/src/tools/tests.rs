//! The file tools' behaviour, case by case, as the published SDK's toolset has it.

use std::fs;

use serde_json::{Value, json};

use super::*;

struct Folder {
    at: tempfile::TempDir,
    workspace: Workspace,
}

impl Folder {
    fn new() -> Self {
        let at = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(at.path()).unwrap();
        Self { at, workspace }
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.at.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn get(&self, name: &str) -> String {
        fs::read_to_string(self.at.path().join(name)).unwrap()
    }

    fn block(&self, name: &str, input: Value) -> Result<ContentBlock, String> {
        let mut never = || false;
        run(&self.workspace, name, input, &mut Stop::new(&mut never)).map_err(|ToolError(text)| text)
    }

    fn text(&self, name: &str, input: Value) -> Result<String, String> {
        self.block(name, input).map(|block| match block {
            ContentBlock::Text { text } => text,
            other => panic!("{other:?}"),
        })
    }

    fn full(&self, name: &str) -> String {
        self.at.path().canonicalize().unwrap().join(name).display().to_string()
    }
}

#[track_caller]
fn refused(outcome: Result<String, String>, part: &str) {
    match outcome {
        Err(text) if text.contains(part) => {}
        other => panic!("expected a refusal with {part:?}, got {other:?}"),
    }
}

#[test]
fn read_gives_a_file_as_it_is() {
    let folder = Folder::new();
    folder.put("a.txt", "one\r\ntwo\n\u{1b}[31mred").put("empty", "");
    assert_eq!(
        folder.text("read", json!({ "file_path": "a.txt" })).unwrap(),
        "one\r\ntwo\n\u{1b}[31mred"
    );
    assert_eq!(
        folder.text("read", json!({ "file_path": "./x/../a.txt" })).unwrap(),
        "one\r\ntwo\n\u{1b}[31mred"
    );
    assert_eq!(
        folder
            .text("read", json!({ "file_path": folder.full("a.txt") }))
            .unwrap(),
        "one\r\ntwo\n\u{1b}[31mred"
    );
    assert_eq!(
        folder.text("read", json!({ "file_path": "/workspace/a.txt" })).unwrap(),
        "one\r\ntwo\n\u{1b}[31mred"
    );
    assert_eq!(folder.text("read", json!({ "file_path": "empty" })).unwrap(), "");
}

#[test]
fn read_ranges_are_inclusive_and_forgiving() {
    let folder = Folder::new();
    folder.put("a", "1\n2\n3\n4\n");
    for (range, want) in [
        (json!([2, 3]), "2\n3"),
        (json!([0, 1]), "1"),
        (json!([-5, 2]), "1\n2"),
        (json!([3, 0]), "3\n4\n"),
        (json!([3, -1]), "3\n4\n"),
        (json!([4, 99]), "4\n"),
        (json!([9, 10]), ""),
        (json!([3, 2]), ""),
        (json!([]), "1\n2\n3\n4\n"),
    ] {
        assert_eq!(
            folder
                .text("read", json!({ "file_path": "a", "view_range": range }))
                .unwrap(),
            want,
            "{range}"
        );
    }
    refused(
        folder.text("read", json!({ "file_path": "a", "view_range": [1] })),
        "view_range",
    );
    refused(
        folder.text("read", json!({ "file_path": "a", "view_range": [1, 2, 3] })),
        "view_range",
    );
}

#[test]
fn read_of_a_large_file_needs_a_range_that_is_small() {
    let folder = Folder::new();
    let lines: Vec<String> = (1..=40_000).map(|number| format!("line {number}")).collect();
    folder
        .put("large", lines.join("\n"))
        .put("wide", "x".repeat(300 * 1024) + "\nshort\n");
    refused(
        folder.text("read", json!({ "file_path": "large" })),
        "view_range: [1, 500]",
    );
    assert_eq!(
        folder
            .text("read", json!({ "file_path": "large", "view_range": [39999, 40001] }))
            .unwrap(),
        "line 39999\nline 40000"
    );
    assert_eq!(
        folder
            .text("read", json!({ "file_path": "large", "view_range": [5, 6] }))
            .unwrap(),
        "line 5\nline 6"
    );
    refused(
        folder.text("read", json!({ "file_path": "large", "view_range": [1, -1] })),
        "ask for fewer",
    );
    refused(
        folder.text("read", json!({ "file_path": "wide", "view_range": [1, 1] })),
        "alone",
    );
    assert_eq!(
        folder
            .text("read", json!({ "file_path": "wide", "view_range": [2, 2] }))
            .unwrap(),
        "short"
    );
}

#[test]
fn read_gives_images_and_pdfs_as_blocks() {
    let folder = Folder::new();
    folder
        .put("a.PNG", [0x89, b'P', 0xff])
        .put("b.jpeg", [1])
        .put("c.pdf", "%PDF")
        .put("d.bin", [0xff, 0xfe]);
    let image = |media_type: &str, data: &str| ContentBlock::Image {
        source: MediaSource::Base64 {
            media_type: media_type.to_owned(),
            data: data.to_owned(),
        },
    };
    assert_eq!(
        folder.block("read", json!({ "file_path": "a.PNG" })).unwrap(),
        image("image/png", "iVD/")
    );
    assert_eq!(
        folder.block("read", json!({ "file_path": "b.jpeg" })).unwrap(),
        image("image/jpeg", "AQ==")
    );
    let pdf = serde_json::to_value(folder.block("read", json!({ "file_path": "c.pdf" })).unwrap()).unwrap();
    assert_eq!(
        pdf,
        json!({ "type": "document", "source": { "type": "base64", "media_type": "application/pdf", "data": "JVBERg==" } })
    );
    refused(
        folder.text("read", json!({ "file_path": "a.PNG", "view_range": [1, 2] })),
        "view_range",
    );
    refused(folder.text("read", json!({ "file_path": "d.bin" })), "UTF-8");
    let sparse = fs::File::create(folder.at.path().join("huge.png")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    refused(
        folder.text("read", json!({ "file_path": "huge.png" })),
        "over the limit of 3932160",
    );
}

#[test]
fn what_cannot_be_read_is_told_without_host_paths() {
    let folder = Folder::new();
    fs::create_dir(folder.at.path().join("folder")).unwrap();
    std::os::unix::fs::symlink("loop", folder.at.path().join("loop")).unwrap();
    for (path, part) in [
        ("missing", "no such file"),
        ("folder", "not a regular file"),
        ("loop", "symbolic links"),
        ("../x", "outside the session's working directory"),
        ("/etc/passwd", "outside"),
        ("a\0b", "NUL"),
    ] {
        let outcome = folder.text("read", json!({ "file_path": path }));
        refused(outcome.clone(), part);
        assert!(
            !outcome.unwrap_err().contains(folder.at.path().to_str().unwrap()),
            "{path}"
        );
    }
    refused(folder.text("read", json!({ "path": "a" })), "unknown field");
    refused(folder.text("read", json!({})), "file_path");
    refused(folder.text("web_search", json!({})), "web_search");
}

#[test]
fn links_inside_are_followed_and_links_outside_are_not() {
    let folder = Folder::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    folder.put("real/file", "inside");
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, folder.at.path().join(name)).unwrap();
    link("real", "relative");
    link(&folder.full("real"), "absolute");
    link("/workspace/real", "by-its-inside-name");
    link("real/../relative/file", "chain");
    link("new-file", "dangling");
    link(outside.path().to_str().unwrap(), "out");
    link("../../../../etc", "up");
    for path in ["relative/file", "absolute/file", "by-its-inside-name/file", "chain"] {
        assert_eq!(
            folder.text("read", json!({ "file_path": path })).unwrap(),
            "inside",
            "{path}"
        );
    }
    for path in ["out/secret", "up/passwd", "out"] {
        refused(folder.text("read", json!({ "file_path": path })), "outside");
        refused(
            folder.text("write", json!({ "file_path": path, "content": "x" })),
            "outside",
        );
    }
    refused(
        folder.text("write", json!({ "file_path": "out/sub/new", "content": "x" })),
        "outside",
    );
    folder
        .text("write", json!({ "file_path": "dangling", "content": "made" }))
        .unwrap();
    assert_eq!(folder.get("new-file"), "made");
    folder
        .text("write", json!({ "file_path": "absolute/deep/er", "content": "made" }))
        .unwrap();
    assert_eq!(folder.get("real/deep/er"), "made");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn write_makes_folders_and_replaces() {
    let folder = Folder::new();
    assert_eq!(
        folder
            .text("write", json!({ "file_path": "a/b/c.txt", "content": "grüße" }))
            .unwrap(),
        "wrote 7 bytes to a/b/c.txt"
    );
    assert_eq!(folder.get("a/b/c.txt"), "grüße");
    folder
        .text("write", json!({ "file_path": "a/b/c.txt", "content": "x" }))
        .unwrap();
    assert_eq!(folder.get("a/b/c.txt"), "x");
    refused(
        folder.text("write", json!({ "file_path": "a", "content": "x" })),
        "is a directory",
    );
    refused(
        folder.text("write", json!({ "file_path": "a/b/c.txt/d", "content": "x" })),
        "not a directory",
    );
}

#[test]
fn edit_wants_one_place_or_all() {
    let folder = Folder::new();
    folder.put("a", "one two two");
    let edit = |old: &str, new: &str, all: Value| {
        folder.text(
            "edit",
            json!({ "file_path": "a", "old_string": old, "new_string": new, "replace_all": all }),
        )
    };
    refused(edit("three", "x", Value::Null), "not in a");
    refused(edit("two", "x", Value::Null), "2 times");
    refused(edit("two", "x", json!(false)), "2 times");
    assert_eq!(edit("one", "1", Value::Null).unwrap(), "edited a (1 replacement(s))");
    assert_eq!(
        edit("two", "longer", json!(true)).unwrap(),
        "edited a (2 replacement(s))"
    );
    assert_eq!(folder.get("a"), "1 longer longer");
    assert_eq!(
        edit(" longer longer", "", Value::Null).unwrap(),
        "edited a (1 replacement(s))"
    );
    assert_eq!(folder.get("a"), "1", "nothing of the longer text is left");
    folder.put("binary", [0xff, 0x00]).put("large", "x".repeat(300 * 1024));
    refused(
        folder.text(
            "edit",
            json!({ "file_path": "binary", "old_string": "a", "new_string": "b" }),
        ),
        "UTF-8",
    );
    refused(
        folder.text(
            "edit",
            json!({ "file_path": "large", "old_string": "a", "new_string": "b" }),
        ),
        "over the limit",
    );
    refused(
        folder.text(
            "edit",
            json!({ "file_path": "none", "old_string": "a", "new_string": "b" }),
        ),
        "no such file",
    );
}

#[test]
fn glob_gives_full_paths_newest_first() {
    let folder = Folder::new();
    folder
        .put("old.rs", "")
        .put("src/new.rs", "")
        .put("src/deep/er.rs", "")
        .put(".hidden.rs", "")
        .put("other.txt", "");
    let touch = |name: &str, seconds: u64| {
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::options()
            .write(true)
            .open(folder.at.path().join(name))
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    for (name, seconds) in [
        ("old.rs", 100),
        ("src/new.rs", 400),
        ("src/deep/er.rs", 300),
        (".hidden.rs", 200),
    ] {
        touch(name, seconds);
    }
    let glob = |pattern: &str, path: Value| folder.text("glob", json!({ "pattern": pattern, "path": path }));
    let want = ["src/new.rs", "src/deep/er.rs", ".hidden.rs", "old.rs"]
        .map(|name| folder.full(name))
        .join("\n");
    assert_eq!(glob("**/*.rs", Value::Null).unwrap(), want);
    assert_eq!(
        glob("*.rs", Value::Null).unwrap(),
        [".hidden.rs", "old.rs"].map(|name| folder.full(name)).join("\n")
    );
    assert_eq!(glob("*.rs", json!("src")).unwrap(), folder.full("src/new.rs"));
    assert_eq!(
        glob("src/*", Value::Null).unwrap().lines().count(),
        2,
        "folders match too"
    );
    assert_eq!(glob("*.py", Value::Null).unwrap(), "no matches");
    refused(glob("/etc/*", Value::Null), "relative");
    refused(glob("../*", Value::Null), "..");
    refused(glob("*", json!("../")), "outside");
    refused(glob("a[", Value::Null), "not valid");
}

#[test]
fn glob_gives_at_most_two_hundred() {
    let folder = Folder::new();
    for number in 0..250 {
        folder.put(&format!("f{number}"), "");
    }
    assert_eq!(
        folder.text("glob", json!({ "pattern": "f*" })).unwrap().lines().count(),
        GLOB_RESULT_LIMIT
    );
}

#[test]
fn grep_gives_path_number_and_line() {
    let folder = Folder::new();
    folder
        .put("b.txt", "no\nneedle two\r\n")
        .put("a/a.txt", "needle one\n")
        .put("binary", b"needle\0")
        .put(".hidden", "needle")
        .put(".git/config", "needle")
        .put(".gitignore", "ignored\n")
        .put("ignored", "needle");
    let grep = |pattern: &str, path: Value| folder.text("grep", json!({ "pattern": pattern, "path": path }));
    let want = format!(
        "{}:1:needle one\n{}:2:needle two",
        folder.full("a/a.txt"),
        folder.full("b.txt")
    );
    assert_eq!(grep("needle", Value::Null).unwrap(), want);
    assert_eq!(
        grep("^needle (one|three)$", Value::Null).unwrap(),
        format!("{}:1:needle one", folder.full("a/a.txt"))
    );
    assert_eq!(
        grep("needle", json!("b.txt")).unwrap(),
        format!("{}:2:needle two", folder.full("b.txt"))
    );
    assert_eq!(grep("nothing", Value::Null).unwrap(), "no matches");
    refused(grep("(", Value::Null), "regular expression");
    refused(grep("x", json!("none")), "no such file");
    refused(grep("x", json!("/etc")), "outside");
}

#[test]
fn grep_is_bounded() {
    let folder = Folder::new();
    folder
        .put("many", "needle in a line\n".repeat(20_000))
        .put("wide", format!("needle{}", "x".repeat(10_000)));
    let text = folder
        .text("grep", json!({ "pattern": "needle", "path": "many" }))
        .unwrap();
    assert!(
        text.len() <= GREP_OUTPUT_LIMIT + 64 && text.ends_with("[output truncated at 102400 bytes]"),
        "{}",
        text.len()
    );
    let text = folder
        .text("grep", json!({ "pattern": "needle", "path": "wide" }))
        .unwrap();
    assert!(text.len() < 2200 && text.contains("line cut"), "{}", text.len());
}

#[test]
fn searches_hear_a_cancel() {
    let folder = Folder::new();
    for number in 0..600 {
        folder.put(&format!("f{number}"), "x");
    }
    let mut at_once = || true;
    for (name, input) in [("grep", json!({ "pattern": "x" })), ("glob", json!({ "pattern": "*" }))] {
        let outcome = run(&folder.workspace, name, input, &mut Stop::new(&mut at_once));
        assert_eq!(outcome.unwrap_err(), ToolError(format!("{name}: interrupted")));
    }
}

#[test]
fn bash_inputs() {
    let parsed = bash_input(json!({ "command": "x", "timeout_ms": 0 })).unwrap();
    assert_eq!(
        (parsed.command.as_deref(), parsed.restart, parsed.timeout_ms),
        (Some("x"), false, None)
    );
    assert_eq!(
        bash_input(json!({ "restart": true, "timeout_ms": 5 }))
            .unwrap()
            .timeout_ms,
        Some(5)
    );
    assert!(bash_input(json!({ "cmd": "x" })).is_err());
    assert!(bash_input(json!({ "command": 5 })).is_err());
    assert!(bash_input(json!({ "timeout_ms": -1 })).is_err());
    assert!(bash_input(json!("x")).is_err());
}
