//! Packages of environments: installed once by real package managers from a registry of the test, whatever the packages
//! try meanwhile.

mod ends;
mod images;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use outwork_egress::Document;
use outwork_egress::secret::Locations;
use outwork_ledger::{Decision, Kind};
use outwork_sandbox::worker::{PackageOptions, SecretSource, WorkerSecret};
use serde_json::{Value, json};

use crate::internet::Internet;
use crate::plane::own::Own;
use crate::{SESSION, World, limited, of_kind};

const PYTHON: &str = "/usr/bin/python3";

/// Makes files by a Python program that gets `words`, and gives what it prints.
fn python(program: &str, words: &[&str]) -> Vec<u8> {
    let mut child = Command::new(PYTHON)
        .arg("-c")
        .arg(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = Vec::new();
    std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{words:?}");
    output
}

/// A wheel of one module that says `text`, with a program of the same name.
fn wheel(name: &str, text: &str) -> Vec<u8> {
    const MAKE: &str = include_str!("packages/wheel.py");
    python(MAKE, &[name, text])
}

/// Puts a package into the registry of Python packages at `index`.
fn publish(internet: &Internet, index: &str, name: &str, file: &str, bytes: Vec<u8>) {
    let mut pages = internet.pages.lock().unwrap();
    let listing = format!("<!DOCTYPE html><a href=\"https://files.pythonhosted.org/{file}\">{file}</a>");
    pages.insert(format!("{index}/{name}/"), ("text/html", listing.into_bytes()));
    pages.insert(
        format!("files.pythonhosted.org/{file}"),
        ("application/octet-stream", bytes),
    );
}

fn publish_wheel(internet: &Internet, name: &str, text: &str) {
    let file = format!("{name}-1.0-py3-none-any.whl");
    publish(internet, "pypi.org/simple", name, &file, wheel(name, text));
}

/// A session of an environment with packages.
fn with(packages: Value) -> Own {
    let mut own = Own::of("cloud", limited(&[]));
    own.boundary["packages"] = packages;
    own
}

/// What lies in a folder of the worker's cache of images.
fn cached(world: &World, folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.state.path().join("images").join(folder));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_are_installed_once_and_the_records_say_so() {
    let mut world = World::new(with(json!({"type": "packages", "pip": ["greeting==1.0"]}))).await;
    publish_wheel(&world.internet, "greeting", "hello from a package");
    assert_eq!(
        patient(&world, "greeting; python3 -m greeting; id -u").await,
        "hello from a package\n1000"
    );
    // It is there for reading, and the session has the network of its environment and no registry.
    let said = world
        .bash("touch /usr/local/bin/x 2>&1; curl -sS -m 5 https://pypi.org/ 2>&1")
        .await;
    assert!(
        said.contains("Read-only file system") && !said.contains("no such package"),
        "{said}"
    );
    let asked = world.internet.seen().len();
    assert!(asked >= 2);
    assert!(world.internet.seen().iter().all(|seen| seen.method == "GET"));
    assert_eq!(cached(&world, "packages").len(), 1);
    assert!(cached(&world, "staging").is_empty());
    let records = world.records().await;
    let image = of_kind(&records, Kind::Image)[0];
    assert_eq!(
        (image.decision, image.reason.as_deref()),
        (
            Some(Decision::Allowed),
            Some("packages were installed: pip greeting==1.0")
        )
    );
    assert!(image.session.is_some() && image.agent.is_some() && image.environment.is_some());
    let digest = image.image_digest.clone().unwrap();
    let layer = image.output_hash.unwrap().to_string();
    assert!(
        digest.contains("with packages") && digest.contains(layer.trim_start_matches("sha256:")),
        "{digest}"
    );
    let begun = of_kind(&records, Kind::SandboxStart);
    let [installing, session] = begun[..] else {
        panic!("{begun:?}")
    };
    assert_eq!(
        installing.reason.as_deref(),
        Some("packages are installed: pip greeting==1.0")
    );
    assert_ne!(installing.policy_hash, session.policy_hash);
    assert_eq!(session.image_digest.as_ref(), Some(&digest));
    let call = of_kind(&records, Kind::ToolCall)[0];
    assert_eq!(call.image_digest.as_ref(), Some(&digest));
    assert!(records.iter().any(|record| {
        record.http_path.as_deref() == Some("/greeting-1.0-py3-none-any.whl")
            && record.decision == Some(Decision::Allowed)
            && record.rule.as_deref() == Some("packages/pypi")
    }));
    // Another session, of a worker that was started again: nothing is asked for any more.
    world.plane.offer("work_2", SESSION);
    world.start(|_| {}).await;
    assert_eq!(world.bash("greeting").await, "hello from a package");
    assert_eq!(world.internet.seen().len(), asked);
    assert_eq!(of_kind(&world.records().await, Kind::Image).len(), 1);
}

/// A source package with a build step of its own, which runs `code`; what that puts into `said` is installed.
fn source(name: &str, code: &str) -> Vec<u8> {
    const MAKE: &str = include_str!("packages/source.py");
    python(MAKE, &[name, code])
}

fn publish_source(internet: &Internet, name: &str, code: &str) {
    publish(
        internet,
        "pypi.org/simple",
        name,
        &format!("{name}-1.0.tar.gz"),
        source(name, code),
    );
}

/// What a command says whose session may have to wait for an installation.
async fn patient(world: &World, command: &str) -> String {
    let call = world.ask(command);
    let answered = async {
        while !world.plane.script().results().iter().any(|(id, ..)| *id == call) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(600), answered).await;
    waited.expect("the call is answered");
    world.answer(&call).await.1
}

/// What such a package found out while it was installed.
async fn said(world: &World, name: &str) -> Value {
    let text = patient(
        world,
        &format!("cat /usr/local/lib/python3*/*-packages/{name}_said.json"),
    )
    .await;
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installer_is_kept_in() {
    const SECRET: &str = "sk-live-0123456789abcdefghijklmnop";
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("of-the-host"), "secret of the host").unwrap();
    let key = host.path().join("key");
    std::fs::write(&key, SECRET).unwrap();
    let system = listing(Path::new("/usr/local"));
    let mut world = World::with(Some(with(json!({"pip": ["hostile"]}))), |boundary| {
        boundary.secrets = vec![WorkerSecret {
            name: "API_KEY".into(),
            source: SecretSource::File(key.clone()),
            hosts: vec!["api.test.example".into()],
            locations: Locations::default(),
        }];
    })
    .await;
    std::fs::write(world.folder.path().join("of-the-session"), "of the session").unwrap();
    let paths = [host.path(), world.folder.path(), world.state.path()].map(|path| path.to_str().unwrap().to_owned());
    let code = include_str!("packages/hostile.py").replace("HOST_PATHS", &format!("{paths:?}"));
    publish_source(&world.internet, "hostile", &code);
    let found = said(&world, "hostile").await;
    let expected: &[(&str, Value)] = &[
        // It is root of its own, or it could not install anything.
        ("uid", json!(0)),
        ("capabilities", json!(["db", "db", "0", "0"])),
        ("variables", json!([])),
        ("host_files", json!([])),
        ("host_secrets", json!([])),
        ("workspace", json!(["install.sh"])),
        ("other_host", json!("refused")),
        ("upload", json!(403)),
        ("by_address", json!("refused")),
        ("block_device", json!("EACCES")),
        ("character_device", json!("EACCES")),
        ("mount", json!("EPERM")),
        ("unshare", json!("EPERM")),
        ("chroot", json!("EPERM")),
        ("ptrace", json!("EPERM")),
        ("raw_socket", json!("EPERM")),
        ("kill_hand", json!("alive")),
        ("hand_memory", json!("refused")),
        ("hand_environment", json!("refused")),
        ("system_program", json!("refused")),
        ("system_settings", json!("refused")),
        ("file_capabilities", json!("refused")),
        // These are let through: what becomes of them is below.
        ("set_uid", json!("made")),
        ("pipe", json!("made")),
        ("link", json!("made")),
        ("opaque", json!("refused")),
    ];
    for (attempt, result) in expected {
        assert_eq!(&found[attempt], result, "{attempt}: {found:#}");
    }
    assert_eq!(found.as_object().unwrap().len(), expected.len(), "{found:#}");
    // It may hide what the machine has from those who use its layer, and change nothing of it.
    assert_eq!(listing(Path::new("/usr/local")), system);
    let hidden = world.bash("ls -A /usr/local/bin /usr/local/lib/python3*").await;
    for (path, ..) in system
        .iter()
        .filter(|(path, ..)| path.parent() == Some(Path::new("/usr/local/bin")))
    {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(!hidden.lines().any(|line| line == name), "{name}: {hidden}");
    }
    // What it left.
    let left = world
        .bash("stat -c '%a %F' /usr/local/bin/rootme; ls -A /usr/local/bin/ | grep -c hostile-pipe; readlink /usr/local/bin/hostile-link; cat /usr/local/bin/hostile-link 2>&1 | grep -c 'No such file'; ls -d /usr/local/hostile-*; echo $API_KEY")
        .await;
    let lines: Vec<&str> = left.lines().collect();
    assert_eq!(
        lines[..5],
        ["755 regular file", "0", "/etc/shadow", "1", "/usr/local/hostile-folder"],
        "{left}"
    );
    assert!(
        !lines[5].is_empty() && lines[5] != SECRET,
        "a session has its placeholder: {left}"
    );
    // What it left running is gone, and what it wrote elsewhere is not kept.
    assert_eq!(processes("hostile-mark"), 0);
    assert_eq!(
        world
            .bash("ls /tmp /home/agent /opt /var | grep -c hostile")
            .await
            .trim(),
        "0"
    );
    assert!(
        !world
            .internet
            .asked
            .lock()
            .unwrap()
            .iter()
            .any(|name| name.contains("api.test"))
    );
    assert!(!world.internet.got(SECRET) && !world.internet.got("secret of the host"));
    assert!(world.internet.seen().iter().all(|seen| seen.method == "GET"));
    let records = world.records().await;
    assert!(
        records.iter().any(|record| {
            record.http_method.as_deref() == Some("POST") && record.decision == Some(Decision::Denied)
        })
    );
}

/// Everything below a folder: path, size, mode, time and inode.
fn listing(folder: &Path) -> Vec<(PathBuf, u64, u32, i64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let data = path.symlink_metadata().unwrap();
            if data.is_dir() {
                folders.push(path.clone());
            }
            found.push((path, data.len(), data.mode(), data.mtime(), data.ino()));
        }
    }
    found.sort();
    found
}

/// Processes of this machine whose command line has this mark.
fn processes(mark: &str) -> usize {
    let listing = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = listing.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(mark))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_installed_is_named_and_nothing_is_kept() {
    let mut world = World::new(with(json!({"pip": ["greeting", "nowhere==2.0"]}))).await;
    publish_wheel(&world.internet, "greeting", "hello");
    let call = world.ask("touch ran");
    let (is_error, text) = world.answer(&call).await;
    assert!(is_error && text.contains("nothing was run"), "{text}");
    for part in ["pip nowhere==2.0", "No matching distribution found for nowhere==2.0"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!world.folder.path().join("ran").exists());
    assert!(cached(&world, "packages").is_empty() && cached(&world, "staging").is_empty());
    // Not every call tries again.
    let seen = world.internet.seen().len();
    assert_eq!(world.bash("true").await, text);
    assert_eq!(world.internet.seen().len(), seen);
    let records = world.records().await;
    let images = of_kind(&records, Kind::Image);
    assert_eq!((images.len(), images[0].decision), (1, Some(Decision::Failed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_installs_is_refused_beforehand() {
    for (packages, says) in [
        (json!({"apt": ["hello"]}), "`--image`"),
        (
            json!({"pip": ["--index-url=https://api.test.example/"]}),
            "options, paths and addresses are refused",
        ),
        (json!({"pip": ["x; touch /tmp/y"]}), "is not the name of a package"),
    ] {
        let mut world = World::new(with(packages)).await;
        let text = world.bash("true").await;
        assert!(text.contains(says) && text.contains("nothing was run"), "{text}");
        assert!(world.internet.seen().is_empty());
        assert!(of_kind(&world.records().await, Kind::SandboxStart).is_empty());
    }
    // The worker's owner allows no registry, or another one.
    for (policy, says) in [
        ("", "allows no package registry"),
        ("presets = [\"npm\"]", "pypi.org was refused"),
    ] {
        let world = World::with(Some(with(json!({"pip": ["greeting"]}))), |boundary| {
            boundary.policy = Some(Document::from_toml("policy.toml", policy).unwrap());
        })
        .await;
        publish_wheel(&world.internet, "greeting", "hello");
        let text = patient(&world, "true").await;
        assert!(text.contains(says), "{text}");
        assert!(world.internet.seen().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_of_the_owner_is_used() {
    let world = World::with(Some(with(json!({"pip": ["greeting"]}))), |boundary| {
        boundary.packages = PackageOptions {
            variables: vec![("PIP_INDEX_URL".into(), "https://mirror.test.example/simple".into())],
            ..PackageOptions::default()
        };
    })
    .await;
    let file = "greeting-1.0-py3-none-any.whl";
    publish(
        &world.internet,
        "mirror.test.example/simple",
        "greeting",
        file,
        wheel("greeting", "from a mirror"),
    );
    assert_eq!(
        patient(&world, "greeting; echo $PIP_INDEX_URL").await.trim(),
        "from a mirror"
    );
    assert!(!world.internet.asked.lock().unwrap().contains(&"pypi.org".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_packages_make_a_fresh_sandbox() {
    let world = World::new(with(json!({"pip": ["one"]}))).await;
    publish_wheel(&world.internet, "one", "1");
    publish_wheel(&world.internet, "two", "2");
    assert_eq!(patient(&world, "one; two 2>/dev/null; x=1; true").await, "1");
    world.say(|own| own.boundary["packages"] = json!({"pip": ["two"]}));
    let changed = async {
        // The old sandbox serves until the new packages are there.
        while cached(&world, "packages").len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), changed)
        .await
        .expect("the packages are installed");
    let fresh = async { while world.bash("one 2>/dev/null; two 2>/dev/null; echo $x").await != "2" {} };
    tokio::time::timeout(Duration::from_secs(20), fresh)
        .await
        .expect("a fresh sandbox");
    world.say(|own| own.boundary["packages"] = Value::Null);
    let none = async { while world.bash("one 2>/dev/null; two 2>/dev/null; echo none").await != "none" {} };
    tokio::time::timeout(Duration::from_secs(20), none)
        .await
        .expect("a fresh sandbox");
}

#[tokio::test(flavor = "multi_thread")]
async fn npm_installs_programs() {
    if !Path::new("/usr/bin/npm").exists() {
        println!("this machine has no npm");
        return;
    }
    const MAKE: &str = include_str!("packages/npm.py");
    let made = python(MAKE, &[]);
    let end = made.iter().position(|byte| *byte == b'\n').unwrap();
    let world = World::new(with(json!({"npm": ["greet@^1"]}))).await;
    {
        let mut pages = world.internet.pages.lock().unwrap();
        pages.insert(
            "registry.npmjs.org/greet".into(),
            ("application/json", made[..end].to_vec()),
        );
        pages.insert(
            "registry.npmjs.org/greet/-/greet-1.0.0.tgz".into(),
            ("application/octet-stream", made[end + 1..].to_vec()),
        );
    }
    assert_eq!(
        patient(&world, "greet; cat /usr/local/lib/node_modules/greet/said").await,
        "hello from node\nhello from node"
    );
}
