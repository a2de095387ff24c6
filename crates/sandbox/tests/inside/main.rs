//! What one sandbox has besides its root: certificates, mounts, results, images, devices. Runs as this user and, started
//! by root, once more as an ordinary user.

mod furnished;
mod images;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::time::Duration;

use outwork_sandbox::{Launcher, LauncherOptions, Sandbox, SandboxOptions, ToolCall};

const AS_USER: &str = "OUTWORK_INSIDE_AS_USER";

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
    furnished::variables_are_there,
    furnished::an_authority_is_trusted,
    furnished::files_are_mounted_anywhere,
    furnished::mounts_are_read_only_and_whole,
    furnished::links_lead_nowhere,
    furnished::results_are_collected,
    furnished::options_that_cannot_work_are_refused,
    furnished::devices_are_given_by_name_only,
    images::an_image_is_the_root,
    images::layers_lie_over_each_other,
    images::an_image_has_everything_else_too,
    images::a_hostile_image_stays_inside,
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
    let setting = runtime.block_on(async {
        let options = LauncherOptions::default();
        Setting {
            launcher: Launcher::start(options).await.expect("the launcher starts"),
            folder: tempfile::tempdir().expect("a folder"),
        }
    });
    if std::env::var_os("OUTWORK_INSIDE_DEVICES").is_some() {
        runtime.block_on(furnished::with_devices(&setting));
        return ExitCode::SUCCESS;
    }
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
    /// A fresh folder of the host.
    pub(crate) fn fresh(&self) -> PathBuf {
        let folder = tempfile::tempdir_in(self.folder.path()).expect("a folder").keep();
        folder.canonicalize().expect("its path")
    }

    pub(crate) fn options(&self) -> SandboxOptions {
        SandboxOptions::new(self.fresh())
    }

    pub(crate) async fn launch(&self, options: SandboxOptions) -> Sandbox {
        self.launcher.launch(options).await.expect("a sandbox")
    }
}

/// What a command says.
pub(crate) async fn bash(sandbox: &Sandbox, command: &str) -> String {
    let input = serde_json::json!({ "command": command, "timeout_ms": 60_000 });
    let output = sandbox.call(ToolCall::new("bash", input)).await;
    output.expect("the sandbox answers").text()
}

/// Writes a file and the folders above it.
pub(crate) fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("its folder");
    std::fs::write(path, text).expect("a file");
}
