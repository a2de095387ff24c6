//! The network fence with real traffic: what arrives at the worker's sockets, what goes nowhere, and that nothing
//! inside can change it. Runs as this user and, started by root, once more as an ordinary user.

mod attacks;
mod traffic;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::time::Duration;

use outwork_sandbox::{Fence, Launcher, LauncherOptions, Network, Sandbox, SandboxOptions, ToolCall};

const AS_USER: &str = "OUTWORK_FENCE_AS_USER";

pub(crate) struct Setting {
    pub(crate) launcher: Launcher,
    folder: tempfile::TempDir,
}

type Case = for<'a> fn(&'a Setting) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! cases {
    ($($room:ident::$case:ident),* $(,)?) => {
        &[$((stringify!($case), (|setting| Box::pin($room::$case(setting))) as Case)),*]
    };
}

const CASES: &[(&str, Case)] = cases![
    traffic::tcp_arrives_with_its_destination,
    traffic::ipv6_arrives_too,
    traffic::questions_for_names_arrive,
    traffic::every_client_gets_through,
    traffic::one_source_port_to_two_places,
    traffic::loopback_stays_inside,
    traffic::other_traffic_goes_nowhere,
    traffic::the_listeners_cannot_be_reached_directly,
    traffic::closed_sockets_are_no_network,
    traffic::a_fence_is_asked_for_by_name,
    traffic::a_hundred_at_once,
    attacks::attempts_succeed_without_a_fence,
    attacks::calls_are_refused,
    attacks::nothing_tells_of_the_host,
];

fn main() -> ExitCode {
    outwork_sandbox::entry();
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if std::env::args().any(|word| word == "--list") {
        for (name, _) in CASES {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let report = outwork_sandbox::probe();
    let step = report.step("network fence").expect("the probe tries the fence");
    assert!(!step.is_missing(), "this machine has no network fence: {step:?}");
    let setting = runtime.block_on(async {
        let options = LauncherOptions {
            usual_network: Network::Fenced,
            ..LauncherOptions::default()
        };
        Setting {
            launcher: Launcher::start(options).await.expect("the launcher starts"),
            folder: tempfile::tempdir().expect("a folder"),
        }
    });
    for (name, case) in CASES {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            let limit = Duration::from_secs(120);
            let outcome = runtime.block_on(async { tokio::time::timeout(limit, case(&setting)).await });
            assert!(outcome.is_ok(), "{name} took longer than {limit:?}");
            println!("ok  {name}");
        }
    }
    if rustix::process::geteuid().is_root() && !again_as_user(&words) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn again_as_user(words: &[String]) -> bool {
    use std::os::unix::process::CommandExt;
    println!("once more as an ordinary user");
    let mut command = Command::new("/proc/self/exe");
    command
        .args(words)
        .env(AS_USER, "1")
        .env("TMPDIR", "/tmp")
        .env("HOME", "/tmp")
        .current_dir("/")
        .uid(65_534)
        .gid(65_534);
    command.status().is_ok_and(|status| status.success())
}

impl Setting {
    pub(crate) fn workspace(&self) -> PathBuf {
        let folder = tempfile::tempdir_in(self.folder.path()).expect("a workspace").keep();
        folder.canonicalize().expect("its path")
    }

    pub(crate) fn options(&self) -> SandboxOptions {
        SandboxOptions {
            network: Network::Fenced,
            ..SandboxOptions::new(self.workspace())
        }
    }

    pub(crate) async fn fenced(&self) -> (Sandbox, Fence) {
        let sandbox = self.launcher.launch(self.options()).await.expect("a sandbox");
        let fence = sandbox.take_fence().expect("its fence");
        assert!(sandbox.take_fence().is_none(), "a fence is taken once");
        (sandbox, fence)
    }
}

/// What a command says.
pub(crate) async fn bash(sandbox: &Sandbox, command: &str) -> String {
    let input = serde_json::json!({ "command": command, "timeout_ms": 60_000 });
    let output = sandbox.call(ToolCall::new("bash", input)).await;
    output.expect("the sandbox answers").text()
}

/// What a Python program says.
pub(crate) async fn python(sandbox: &Sandbox, program: &str) -> String {
    let script = format!("/usr/bin/python3 - <<'END'\nimport socket, errno, os, struct, fcntl\n{program}\nEND");
    bash(sandbox, &script).await
}
