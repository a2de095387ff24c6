use std::process::Command;

use proptest::prelude::*;

use super::*;

#[test]
fn names_that_are_meant() {
    for (valid, names) in [
        (
            apt as fn(&str) -> bool,
            vec![
                "ffmpeg",
                "g++",
                "libstdc++6",
                "curl=7.88.1-10+deb12u8",
                "vim/stable",
                "libc6:amd64",
                "tar=1:2.3~rc1",
            ],
        ),
        (
            cargo,
            vec!["ripgrep", "ripgrep@14.0.0", "cargo-edit@=0.12.2", "serde_json@^1"],
        ),
        (gem, vec!["rails", "rails:7.1.0", "ruby-progressbar"]),
        (
            go,
            vec![
                "golang.org/x/tools/cmd/goimports@latest",
                "github.com/a/b/v2@v2.1.0",
                "example.org/x",
            ],
        ),
        (
            npm,
            vec![
                "express",
                "express@4.18.0",
                "@types/node@^20.1",
                "typescript@>=5 <6",
                "a@latest",
                "b@1.x || 2.x",
            ],
        ),
        (
            pip,
            vec![
                "pandas",
                "pandas==2.2.0",
                "requests[socks,security]>=2.0,<3",
                "ruamel.yaml ~= 0.18",
                "x==1.*",
                "a===1!2+local",
            ],
        ),
    ] {
        for name in names {
            assert!(valid(name), "{name}");
        }
    }
}

#[test]
fn names_that_are_refused() {
    let attacks = [
        "",
        "-y",
        "--help",
        "a;id",
        "a b",
        "a\nb",
        "$(id)",
        "`id`",
        "a'b",
        "a\"b",
        "../a",
        "/tmp/a",
        "./a",
        "a&&b",
        "a|b",
        "a>b;c",
        "file:/etc",
        "http://x.example/a",
        "git+https://x.example/a",
        "--index-url=x",
        "a@",
        "@",
        "é",
        "a\0b",
        "~root",
        "a*",
    ];
    for valid in [apt, cargo, gem, go, npm, pip] {
        for name in attacks {
            // `a>b;c` and the like must fail everywhere; a plain range is pip's own.
            assert!(!valid(name), "{name:?}");
        }
    }
    for (valid, name) in [
        (apt as fn(&str) -> bool, "vim-"),
        (apt, "a+"),
        (apt, "VIM"),
        (apt, "./x.deb"),
        (apt, "x=1-"),
        (npm, "npm:x"),
        (npm, "a@npm:b"),
        (npm, "user/repo"),
        (npm, "x.tgz"),
        (npm, "a@ 1"),
        (pip, "x @ https://y.example"),
        (pip, "x; python_version>'3'"),
        (pip, "x.whl"),
        (pip, "x["),
        (pip, "x=="),
        (pip, "x==1 --hash=a"),
        (go, "fmt"),
        (go, "./cmd"),
        (go, "all"),
        (go, "a.b/../c"),
        (gem, "x.gem"),
        (gem, "x:>1"),
        (cargo, "a@1 b"),
    ] {
        assert!(!valid(name), "{name:?}");
    }
}

#[test]
fn the_key_follows_what_is_installed() {
    let one = Packages {
        pip: vec!["b".into(), "a".into(), "b".into()],
        ..Packages::default()
    };
    let same = Packages {
        pip: vec!["a".into(), "b".into()],
        ..Packages::default()
    };
    let other = Packages {
        npm: vec!["a".into(), "b".into()],
        ..Packages::default()
    };
    let key = |packages: &Packages, base| packages.check().unwrap().key(base);
    assert_eq!(key(&one, "sha256:1"), key(&same, "sha256:1"));
    assert_ne!(key(&one, "sha256:1"), key(&same, "sha256:2"));
    assert_ne!(key(&one, "sha256:1"), key(&other, "sha256:1"));
}

/// The script is run by a real shell with stand-ins for the managers that write down their arguments.
#[test]
fn the_script_gives_names_as_single_words() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in ["apt-get", "cargo", "gem", "go", "npm", "python3"] {
        let path = bin.join(name);
        std::fs::write(
            &path,
            format!(
                "#!/bin/sh\nfor a; do printf '%s\\n' \"{name}|$a\" >> {}/said; done\n",
                folder.path().display()
            ),
        )
        .unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    // The one line that does more than call a manager removes system files; it must not run here.
    let packages = Packages {
        cargo: vec!["ripgrep@14.0.0".into()],
        gem: vec!["rails:7.1.0".into()],
        go: vec!["example.org/a".into(), "example.org/b@v1".into()],
        npm: vec!["typescript@>=5 <6".into()],
        pip: vec!["requests[socks]>=2,<3".into()],
        ..Packages::default()
    };
    let script = packages.check().unwrap().script();
    let run = |script: &str| {
        Command::new("/bin/sh")
            .arg("-c")
            .arg(script)
            .env_clear()
            .env("PATH", &bin)
            .current_dir(folder.path())
            .output()
            .unwrap()
    };
    let output = run(&script);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = std::fs::read_to_string(folder.path().join("said")).unwrap();
    for line in [
        "cargo|ripgrep@14.0.0",
        "gem|rails:7.1.0",
        "go|example.org/a@latest",
        "go|example.org/b@v1",
        "npm|typescript@>=5 <6",
        "python3|requests[socks]>=2,<3",
    ] {
        assert!(said.lines().any(|said| said == line), "{line} is not in\n{said}");
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        2,
        "a redirection made a file"
    );

    std::fs::remove_file(bin.join("npm")).unwrap();
    let output = run(&script);
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the image has no npm"));

    let apt = Packages {
        apt: vec!["g++".into()],
        ..Packages::default()
    };
    assert!(
        apt.check()
            .unwrap()
            .script()
            .contains("apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io -- 'g++'")
    );
}

proptest! {
    #[test]
    fn what_is_quoted_is_one_word(text in "[ -~\n]{0,40}") {
        let output = Command::new("/bin/sh").arg("-c").arg(format!("printf %s {}", quote(&text))).output().unwrap();
        prop_assert_eq!(output.stdout, text.into_bytes());
    }

    #[test]
    fn what_is_accepted_has_no_shell_words(text in "[a-z0-9 ;$`'\"|&<>()\\\\@=./~!*-]{1,12}") {
        for valid in [apt, cargo, gem, go, npm, pip] {
            if valid(&text) {
                prop_assert!(!text.contains([';', '$', '`', '\'', '"', '&', '(', '\\', '\n']) && !text.starts_with('-'), "{}", text);
            }
        }
    }
}
