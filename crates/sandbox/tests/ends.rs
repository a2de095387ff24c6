//! Stopping, holding still, limits of a whole sandbox, and a session's files across sandboxes: with isolation, without
//! it, and started by root once more as an ordinary user.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use outwork_sandbox::{
    Isolation, Launcher, LauncherOptions, Limits, Sandbox, SandboxError, SandboxOptions, ToolCall, ToolOutput,
    checkpoint,
};

const AS_USER: &str = "OUTWORK_ENDS_AS_USER";
const AS_WORKER: &str = "OUTWORK_ENDS_AS_WORKER";

struct Setting {
    launcher: Launcher,
    folder: tempfile::TempDir,
}

type Case = for<'a> fn(&'a Setting) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! cases {
    ($($case:ident),* $(,)?) => { &[$((stringify!($case), (|setting| Box::pin($case(setting))) as Case)),*] };
}

const EVERYWHERE: &[(&str, Case)] = cases![
    a_call_may_end_by_itself,
    a_call_that_does_not_end_is_cancelled,
    a_stop_ends_everything,
    a_paused_sandbox_stands_still,
    calls_wait_for_the_resume,
    a_paused_sandbox_can_be_killed,
    the_wall_clock_ends_a_sandbox,
    all_output_together_is_limited,
    files_survive_a_sandbox,
];

const ISOLATED: &[(&str, Case)] = cases![
    nothing_paused_outlives_its_launcher,
    nothing_paused_outlives_its_worker,
    nothing_lives_after_a_kill,
];

fn main() -> ExitCode {
    outwork_sandbox::entry();
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if std::env::args().any(|word| word == "--list") {
        for (name, _) in EVERYWHERE.iter().chain(ISOLATED) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if let Ok(marker) = std::env::var(AS_WORKER) {
        runtime.block_on(be_a_worker(&marker));
        return ExitCode::SUCCESS;
    }
    for isolation in [Isolation::Full, Isolation::None] {
        let setting = runtime.block_on(async {
            let options = LauncherOptions {
                isolation,
                ..LauncherOptions::default()
            };
            Setting {
                launcher: Launcher::start(options).await.expect("the launcher starts"),
                folder: tempfile::tempdir().expect("a folder"),
            }
        });
        let isolated = if isolation == Isolation::Full { ISOLATED } else { &[] };
        for (name, case) in EVERYWHERE.iter().chain(isolated) {
            if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
                let limit = Duration::from_secs(120);
                let outcome = runtime.block_on(async { tokio::time::timeout(limit, case(&setting)).await });
                assert!(outcome.is_ok(), "{name} took longer than {limit:?}");
                println!("ok  {isolation:?}  {name}");
            }
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
    fn workspace(&self) -> PathBuf {
        let folder = tempfile::tempdir_in(self.folder.path()).expect("a workspace").keep();
        folder.canonicalize().expect("its path")
    }

    fn options(&self) -> SandboxOptions {
        SandboxOptions::new(self.workspace())
    }

    async fn sandbox(&self) -> Sandbox {
        self.launcher.launch(self.options()).await.expect("a sandbox")
    }
}

async fn call(sandbox: &Sandbox, command: &str) -> Result<ToolOutput, SandboxError> {
    let input = serde_json::json!({ "command": command });
    sandbox.call(ToolCall::new("bash", input)).await
}

async fn bash(sandbox: &Sandbox, command: &str) -> ToolOutput {
    call(sandbox, command).await.expect("the sandbox answers")
}

/// Pids on the host whose command line has this word.
fn on_host(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let lines = entries
        .flatten()
        .map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
    lines
        .filter(|line| line.split(|byte| *byte == 0).any(|word| word == marker.as_bytes()))
        .count()
}

fn marker() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("5{:04}.{}", NEXT.fetch_add(1, Ordering::Relaxed), std::process::id())
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn a_call_may_end_by_itself(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let marker = marker();
    bash(&sandbox, "x=kept").await;
    let command = format!(
        "bash -c 'trap \"echo tidied up; kill %1 2>/dev/null; exit 7\" TERM; sleep {marker} & while :; do wait; done'; echo \"code $?\""
    );
    let (running, waiting) = (bash(&sandbox, &command), bash(&sandbox, "echo never"));
    let stop = async {
        until("the command runs", || on_host(&marker) > 0).await;
        sandbox.end_calls(Duration::from_secs(60)).await.expect("ended");
    };
    let (running, waiting, ()) = tokio::join!(running, waiting, stop);
    assert_eq!(running.text(), "tidied up\ncode 7");
    assert!(
        waiting.is_error && waiting.text().contains("interrupted"),
        "{}",
        waiting.text()
    );
    // The shell was not asked to end: what it holds is there.
    assert_eq!(bash(&sandbox, "echo $x").await.text(), "kept");
    until("the child is gone", || on_host(&marker) == 0).await;
}

async fn a_call_that_does_not_end_is_cancelled(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let marker = marker();
    let command = format!("bash -c 'trap \"\" TERM; while :; do sleep {marker}; done'");
    let stop = async {
        until("the command runs", || on_host(&marker) > 0).await;
        sandbox.end_calls(Duration::from_millis(150)).await.expect("ended");
        assert_eq!(on_host(&marker), 0);
    };
    let (running, ()) = tokio::join!(bash(&sandbox, &command), stop);
    assert!(
        running.is_error && running.text().contains("interrupted"),
        "{}",
        running.text()
    );
    assert_eq!(bash(&sandbox, "echo fine").await.text(), "fine");
    // With nothing to end there is nothing to wait for.
    sandbox.end_calls(Duration::from_secs(60)).await.expect("ended");
}

async fn a_stop_ends_everything(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let marker = marker();
    bash(&sandbox, &format!("(setsid nohup sleep {marker} >/dev/null 2>&1 &)")).await;
    let command = format!("trap '' TERM; sleep {marker}");
    let stop = async {
        until("both run", || on_host(&marker) == 2).await;
        sandbox.stop(Duration::from_millis(50)).await.expect("ended");
        assert_eq!(on_host(&marker), 0);
    };
    let (running, ()) = tokio::join!(call(&sandbox, &command), stop);
    assert!(running.map_or(true, |output| output.is_error));
    let after = call(&sandbox, "echo x").await;
    assert!(matches!(after, Err(SandboxError::Ended(_))), "{after:?}");
}

/// Things to leave behind, and how many processes have the marker then.
const LEFT: &[(&str, &str, usize)] = &[
    (
        "daemons, forked twice",
        "for i in $(seq 20); do (setsid bash -c 'trap \"\" HUP TERM INT QUIT; sleep MARKER & disown; exit' &) ; done",
        20,
    ),
    (
        "stopped ones",
        "for i in 1 2 3 4; do sleep MARKER & done; for p in $(jobs -p); do until tr '\\0' ' ' < /proc/$p/cmdline | grep -q '^sleep'; do :; done; kill -STOP $p; done",
        4,
    ),
    (
        "a bomb of 300",
        "cat > b.c <<'END'\n#include <unistd.h>\nint main(void) { for (int i = 0; i < 299; i++) if (fork() == 0) { setsid(); for (;;); } for (;;) pause(); }\nEND\ncc -o b b.c && (./b MARKER >/dev/null 2>&1 &)",
        300,
    ),
    (
        "one that forks and ends without pause",
        "/usr/bin/python3 - MARKER <<'END' >/dev/null 2>&1 &\nimport os\nwhile True:\n  if os.fork(): os._exit(0)\nEND",
        1,
    ),
    (
        "parents that wait for their child uninterruptibly",
        "cat > v.c <<'END'\n#include <unistd.h>\n#include <stdlib.h>\nint main(void) { if (vfork() == 0) { for (;;) pause(); } return 0; }\nEND\ncc -o v v.c && for i in 1 2 3; do ./v MARKER & done",
        6,
    ),
    (
        "much memory",
        "/usr/bin/python3 -c \"import sys, time; x = bytearray(b'x') * (256 << 20); time.sleep(600)\" MARKER &",
        1,
    ),
];

async fn nothing_lives_after_a_kill(setting: &Setting) {
    for (name, command, expected) in LEFT {
        let mut times = Vec::new();
        for _ in 0..5 {
            let sandbox = setting.sandbox().await;
            let marker = marker();
            bash(&sandbox, &command.replace("MARKER", &marker)).await;
            until(name, || on_host(&marker) >= *expected).await;
            let begun = Instant::now();
            sandbox.kill().await.expect("killed");
            times.push(begun.elapsed());
            assert_eq!(on_host(&marker), 0, "{name}");
        }
        times.sort();
        let median = times.get(times.len() / 2).copied().expect("a median");
        println!(
            "    {name}: nothing left after {median:?} in the median, {:?} at most",
            times.last()
        );
    }
}

/// A file that grows for as long as something runs.
const TICKING: &str = "(while :; do echo x >> ticks; sleep 0.002; done) >/dev/null 2>&1 &";

async fn a_paused_sandbox_stands_still(setting: &Setting) {
    let options = setting.options();
    let ticks = options.workspace.join("ticks");
    let sandbox = setting.launcher.launch(options).await.expect("a sandbox");
    let size = || std::fs::metadata(&ticks).map(|found| found.len()).unwrap_or(0);
    bash(&sandbox, TICKING).await;
    for _ in 0..3 {
        let before = size();
        until("it ticks", || size() > before).await;
        sandbox.pause().await.expect("paused");
        let then = size();
        // Twenty times as long as a tick takes.
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(size(), then, "it goes on");
        // A second pause changes nothing.
        sandbox.pause().await.expect("paused");
        sandbox.resume().await.expect("resumed");
        until("it ticks again", || size() > then).await;
    }
    sandbox.resume().await.expect("resumed");
    assert_eq!(bash(&sandbox, "echo fine").await.text(), "fine");
    sandbox.kill().await.expect("killed");
    let over = sandbox.pause().await;
    assert!(over.is_err(), "{over:?}");
}

async fn calls_wait_for_the_resume(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let marker = marker();
    let command = format!("sleep {marker} & p=$!; while test ! -e go; do sleep 0.01; done; kill $p; echo went");
    let steer = async {
        until("it runs", || on_host(&marker) > 0).await;
        sandbox.pause().await.expect("paused");
        let made = std::fs::write(setting_root(&sandbox, setting).join("go"), "");
        made.expect("a sign");
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(on_host(&marker), 1, "it saw the sign while it was held");
        sandbox.resume().await.expect("resumed");
    };
    let (output, ()) = tokio::join!(bash(&sandbox, &command), steer);
    assert_eq!(output.text(), "went");
}

/// The workspace on the host: the last one made.
fn setting_root(sandbox: &Sandbox, setting: &Setting) -> PathBuf {
    if sandbox.root() != std::path::Path::new("/workspace") {
        return sandbox.root().to_path_buf();
    }
    let mut folders: Vec<_> = std::fs::read_dir(setting.folder.path())
        .expect("the folder")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    folders.sort_by_key(|path| std::fs::metadata(path).and_then(|found| found.created()).ok());
    folders.pop().expect("a workspace")
}

async fn a_paused_sandbox_can_be_killed(setting: &Setting) {
    for dropped in [false, true] {
        let sandbox = setting.sandbox().await;
        let marker = marker();
        bash(
            &sandbox,
            &format!("sleep {marker} >/dev/null 2>&1 & sleep {marker} >/dev/null 2>&1 &"),
        )
        .await;
        until("they run", || on_host(&marker) == 2).await;
        sandbox.pause().await.expect("paused");
        if dropped {
            drop(sandbox);
        } else {
            sandbox.kill().await.expect("killed");
        }
        until("they are gone", || on_host(&marker) == 0).await;
    }
}

async fn nothing_paused_outlives_its_launcher(setting: &Setting) {
    let options = LauncherOptions {
        isolation: setting.launcher.isolation(),
        ..LauncherOptions::default()
    };
    let launcher = Launcher::start(options).await.expect("a launcher");
    let sandbox = launcher.launch(setting.options()).await.expect("a sandbox");
    let marker = marker();
    bash(&sandbox, &format!("sleep {marker} >/dev/null 2>&1 &")).await;
    until("it runs", || on_host(&marker) == 1).await;
    sandbox.pause().await.expect("paused");
    let pid = rustix::process::Pid::from_raw(launcher_of(&marker)).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("ended");
    until("it is gone", || on_host(&marker) == 0).await;
    drop(sandbox);
}

/// A worker that is killed while its sandbox is held: its launcher sees to it that nothing is left.
async fn nothing_paused_outlives_its_worker(_: &Setting) {
    let marker = marker();
    let mut worker = Command::new("/proc/self/exe")
        .env(AS_WORKER, &marker)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a worker");
    let mut said = [0; 6];
    let mut from = worker.stdout.take().expect("its output");
    std::io::Read::read_exact(&mut from, &mut said).expect("a word");
    assert_eq!(&said, b"paused");
    assert_eq!(on_host(&marker), 1);
    worker.kill().expect("killed");
    worker.wait().expect("its end");
    until("it is gone", || on_host(&marker) == 0).await;
}

/// The process that [`nothing_paused_outlives_its_worker`] kills.
async fn be_a_worker(marker: &str) {
    let options = LauncherOptions::default();
    let launcher = Launcher::start(options).await.expect("a launcher");
    let folder = tempfile::tempdir().expect("a folder");
    let sandbox = launcher
        .launch(SandboxOptions::new(folder.path()))
        .await
        .expect("a sandbox");
    bash(&sandbox, &format!("sleep {marker} >/dev/null 2>&1 &")).await;
    until("it runs", || on_host(marker) == 1).await;
    sandbox.pause().await.expect("paused");
    println!("paused");
    // Bounded, should nobody kill it.
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// The ancestor of the marked process whose parent is this one.
fn launcher_of(marker: &str) -> i32 {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let mut pid: u32 = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == marker.as_bytes())
        })
        .expect("the process");
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok())
            .unwrap_or(0);
        if parent == std::process::id() || parent == 0 {
            return pid as i32;
        }
        pid = parent;
    }
}

async fn the_wall_clock_ends_a_sandbox(setting: &Setting) {
    let mut options = setting.options();
    options.limits = Limits {
        wall_clock: Some(Duration::from_millis(400)),
        ..Limits::default()
    };
    let sandbox = setting.launcher.launch(options.clone()).await.expect("a sandbox");
    let marker = marker();
    assert_eq!(bash(&sandbox, "echo in time").await.text(), "in time");
    let late = call(&sandbox, &format!("sleep {marker}")).await;
    assert!(
        matches!(&late, Err(SandboxError::Limit { limit: "wall_clock", value }) if value == "400ms"),
        "{late:?}"
    );
    until("it is gone", || on_host(&marker) == 0).await;
    assert!(matches!(call(&sandbox, "true").await, Err(SandboxError::Limit { .. })));
    if setting.launcher.isolation() == Isolation::Full {
        let run = setting
            .launcher
            .run_once(options, vec!["/bin/sleep".to_owned(), marker.clone()], false)
            .await;
        assert!(matches!(&run, Err(SandboxError::Limit { .. })), "{run:?}");
        until("it is gone", || on_host(&marker) == 0).await;
    }
}

async fn all_output_together_is_limited(setting: &Setting) {
    let mut options = setting.options();
    options.limits = Limits {
        total_output_bytes: Some(10_000),
        ..Limits::default()
    };
    let sandbox = setting.launcher.launch(options).await.expect("a sandbox");
    let mut answered = 0;
    let error = loop {
        match call(&sandbox, "head -c 3000 /dev/zero | tr '\\0' x").await {
            Ok(output) => answered += output.text().len(),
            Err(error) => break error,
        }
    };
    assert_eq!(answered, 9000);
    assert!(
        matches!(
            &error,
            SandboxError::Limit {
                limit: "total_output_bytes",
                ..
            }
        ),
        "{error}"
    );
}

async fn files_survive_a_sandbox(setting: &Setting) {
    let options = setting.options();
    let workspace = options.workspace.clone();
    let sandbox = setting.launcher.launch(options).await.expect("a sandbox");
    bash(&sandbox, "mkdir -p src && echo 'fn main() {}' > src/main.rs && ln -s src/main.rs link && chmod 750 src && head -c 300000 /dev/urandom > data && sha256sum < data > sum").await;
    bash(&sandbox, TICKING).await;
    until("it ticks", || workspace.join("ticks").exists()).await;
    sandbox.pause().await.expect("paused");
    let at = setting.folder.path().join(format!("checkpoint-{}", marker()));
    let saved = checkpoint::save(&workspace, &at).expect("saved");
    sandbox.resume().await.expect("resumed");
    sandbox.kill().await.expect("killed");
    let elsewhere = setting.workspace();
    checkpoint::restore(&at, &saved.digest, &elsewhere).expect("restored");
    let again = setting
        .launcher
        .launch(SandboxOptions::new(elsewhere))
        .await
        .expect("a sandbox");
    let said = bash(
        &again,
        "cat link; sha256sum < data | cmp - sum && echo same; stat -c %a src; test -e ticks && echo new >> src/main.rs && tail -1 src/main.rs",
    )
    .await;
    assert_eq!(said.text(), "fn main() {}\nsame\n750\nnew");
}
