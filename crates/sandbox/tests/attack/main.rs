//! The attack suite: what a workload tries from inside, and what must hold.
//!
//! Each case has a name and runs from `bash` in a sandbox. It holds when the attempt was made and failed in the
//! expected way; output without a verdict is a failure. Where an attempt succeeds for root outside of a sandbox, it is
//! also made there, so a case that cannot fail is found. When the suite runs as root it runs once more as an
//! ordinary user.

mod calls;
mod scripts;
mod staged;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use outwork_sandbox::{
    Isolation, Launcher, LauncherOptions, Limits, Network, ReadOnlyMount, RootImage, Sandbox, SandboxOptions, ToolCall,
    ToolOutput,
};

/// Set in the second run.
const AS_USER: &str = "OUTWORK_ATTACKS_AS_USER";
const NOBODY: u32 = 65_534;

/// Why a case did not hold.
pub(crate) type Outcome = Result<(), String>;

/// Sandboxes, and a folder on the host to stage things in.
pub(crate) struct Stage {
    pub(crate) launcher: Launcher,
    /// Holds `ws` (the workspace) and things that must not be reached.
    pub(crate) host: tempfile::TempDir,
    pub(crate) report: outwork_sandbox::Report,
}

impl Stage {
    async fn set() -> Self {
        let launcher = Launcher::start(LauncherOptions::default())
            .await
            .expect("the launcher starts");
        let host = tempfile::tempdir().expect("a folder for the stage");
        std::fs::create_dir(host.path().join("ws")).expect("a workspace");
        let stage = Self {
            launcher,
            host,
            report: outwork_sandbox::probe(),
        };
        compile(&stage.workspace().join("attack"));
        stage
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.host.path().join("ws")
    }

    pub(crate) async fn sandbox(&self, limits: Limits) -> Sandbox {
        let options = SandboxOptions {
            limits,
            ..SandboxOptions::new(self.workspace())
        };
        self.launcher.launch(options).await.expect("a sandbox")
    }
}

/// Runs one command in a sandbox.
pub(crate) async fn bash(sandbox: &Sandbox, command: &str) -> ToolOutput {
    bash_for(sandbox, command, Duration::from_secs(60)).await
}

pub(crate) async fn bash_for(sandbox: &Sandbox, command: &str, limit: Duration) -> ToolOutput {
    let input = serde_json::json!({ "command": command, "timeout_ms": limit.as_millis() as u64 });
    sandbox
        .call(ToolCall::new("bash", input))
        .await
        .expect("the sandbox answers")
}

fn compile(to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attack/attack.c");
    let done = Command::new("cc")
        .args(["-O1", "-static", "-w", "-o"])
        .arg(to)
        .arg(&source)
        .status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "the attack program needs cc and a static libc"
    );
}

struct Tally {
    held: usize,
    failed: Vec<String>,
    filter: Vec<String>,
    list: bool,
}

impl Tally {
    fn wants(&self, name: &str) -> bool {
        if self.list {
            println!("{name}: test");
            return false;
        }
        self.filter.is_empty() || self.filter.iter().any(|word| name.contains(word.as_str()))
    }

    fn note(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Ok(()) => {
                self.held += 1;
                println!("held    {name}");
            }
            Err(reason) => {
                println!("FAILED  {name}\n        {}", reason.replace('\n', "\n        "));
                self.failed.push(name.to_owned());
            }
        }
    }
}

fn main() -> ExitCode {
    outwork_sandbox::entry();
    let filter: Vec<String> = std::env::args().skip(1).collect();
    let list = filter.iter().any(|word| word == "--list");
    let filter = filter.into_iter().filter(|word| !word.starts_with("--")).collect();
    let mut tally = Tally {
        held: 0,
        failed: Vec::new(),
        filter,
        list,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(&mut tally));
    if list {
        return ExitCode::SUCCESS;
    }
    let who = if std::env::var_os(AS_USER).is_some() {
        "an ordinary user"
    } else {
        "this user"
    };
    println!(
        "as {who}: {} of {} attacks contained",
        tally.held,
        tally.held + tally.failed.len()
    );
    for name in &tally.failed {
        println!("not contained: {name}");
    }
    drop(runtime);
    let ordinary = again_as_user(&tally.filter);
    if tally.failed.is_empty() && ordinary {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(tally: &mut Tally) {
    let stage = Stage::set().await;
    assert!(
        tally.list || stage.report.ready(),
        "this machine cannot isolate:\n{}",
        stage.report
    );
    let sandbox = stage.sandbox(Limits::default()).await;
    for call in calls::CALLS {
        if tally.wants(call.name) {
            let output = bash(&sandbox, &format!("./attack {}", call.arguments)).await;
            tally.note(call.name, held(&output.text(), Some(call.held)));
        }
    }
    for script in scripts::SCRIPTS {
        if tally.wants(script.name) {
            let output = bash(&sandbox, script.text).await;
            tally.note(script.name, held(&output.text(), None));
        }
    }
    furnished(&stage, tally).await;
    // After all that, the sandbox still works and still isolates.
    if tally.wants("afterwards: the sandbox is whole") {
        let output = bash(&sandbox, "echo $((6*7))").await;
        tally.note(
            "afterwards: the sandbox is whole",
            expect(output.text() == "42", &output.text()),
        );
    }
    controls(&stage, tally).await;
    staged::run(&stage, tally).await;
}

/// The same from a sandbox that has everything one can have: a fence, an authority, mounts, a folder for results, and
/// in its second run the root of an image in place of the host's.
async fn furnished(stage: &Stage, tally: &mut Tally) {
    let source = stage.host.path().join("given");
    std::fs::write(&source, "given\n").expect("a file");
    let results = stage.host.path().join("results");
    std::fs::create_dir_all(&results).expect("a folder");
    let image = stage.host.path().join("image");
    scripts::image(&image);
    for (kind, image) in [
        ("furnished", RootImage::HostSystem),
        ("image", RootImage::Layers(vec![image])),
    ] {
        let host = image == RootImage::HostSystem;
        let options = SandboxOptions {
            image,
            network: Network::Fenced,
            outputs: Some(results.clone()),
            ca_pem: Some(scripts::AUTHORITY.to_owned()),
            mounts: vec![
                ReadOnlyMount {
                    source: source.clone(),
                    target: "/mnt/session/uploads/given".into(),
                },
                ReadOnlyMount {
                    source: source.clone(),
                    target: "/data/given".into(),
                },
            ],
            ..SandboxOptions::new(stage.workspace())
        };
        let sandbox = stage.launcher.launch(options).await.expect("a furnished sandbox");
        // Its sockets are held and nobody answers: what is let out of it waits in the kernel.
        let _fence = sandbox.take_fence().expect("a fence");
        for call in calls::CALLS.iter().filter(|call| !call.name.starts_with("network:")) {
            let name = format!("{kind}: {}", call.name);
            if tally.wants(&name) {
                let output = bash(&sandbox, &format!("./attack {}", call.arguments)).await;
                tally.note(&name, held(&output.text(), Some(call.held)));
            }
        }
        // Scripts need the host's programs.
        let usual = scripts::SCRIPTS
            .iter()
            .filter(|script| host && !scripts::OTHERWISE.contains(&script.name));
        for script in usual.chain(scripts::FURNISHED) {
            let name = format!("{kind}: {}", script.name);
            if tally.wants(&name) {
                let output = bash(&sandbox, script.text).await;
                tally.note(&name, held(&output.text(), None));
            }
        }
    }
}

/// The attempts outside of a sandbox, as root: they must succeed there, or the case proves nothing.
async fn controls(stage: &Stage, tally: &mut Tally) {
    if std::env::var_os(AS_USER).is_some() || !is_root() {
        return;
    }
    let options = LauncherOptions {
        isolation: Isolation::None,
        ..LauncherOptions::default()
    };
    let launcher = Launcher::start(options).await.expect("a launcher without isolation");
    let folder = tempfile::tempdir().expect("a folder");
    let sandbox = launcher
        .launch(SandboxOptions::new(folder.path()))
        .await
        .expect("tools without isolation");
    for call in calls::CALLS.iter().filter(|call| call.control) {
        let name = format!("control: {}", call.name);
        if tally.wants(&name) {
            // Afresh: the attempts change the program's own rights.
            let _ = std::fs::remove_file(folder.path().join("attack"));
            std::fs::copy(stage.workspace().join("attack"), folder.path().join("attack")).expect("the attack program");
            let text = bash(&sandbox, &format!("./attack {}", call.arguments)).await.text();
            tally.note(
                &name,
                expect(
                    text.contains("BREACH"),
                    &format!("without a sandbox this should succeed, but: {text}"),
                ),
            );
        }
    }
}

/// The verdict of an attempt.
pub(crate) fn held(text: &str, errno: Option<&str>) -> Outcome {
    if text.contains("BREACH") {
        return Err(text.to_owned());
    }
    let Some((_, verdict)) = text.rsplit_once("HELD") else {
        return Err(format!("no verdict: {text}"));
    };
    match errno {
        Some(errno) if !errno.split('|').any(|errno| verdict.trim() == errno) => {
            Err(format!("failed with {}, expected {errno}", verdict.trim()))
        }
        _ => Ok(()),
    }
}

pub(crate) fn expect(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// As root, the whole suite once more without root.
fn again_as_user(filter: &[String]) -> bool {
    use std::os::unix::process::CommandExt;
    if !is_root() {
        return true;
    }
    let mut command = Command::new("/proc/self/exe");
    command
        .args(filter)
        .env(AS_USER, "1")
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY);
    command.status().is_ok_and(|status| status.success())
}
