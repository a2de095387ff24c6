//! A sandbox's life, from the worker's side: what the shell keeps, what a cancel ends, how fast a kill is, what
//! programs of the host's system folders can do, and that it all works for root, for an ordinary user, and without
//! isolation.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use outwork_sandbox::{
    ContentBlock, Isolation, Launcher, LauncherOptions, Limits, Sandbox, SandboxError, SandboxOptions, ToolCall,
    ToolOutput,
};
use serde_json::json;

const AS_USER: &str = "OUTWORK_LIFECYCLE_AS_USER";
/// Longest time from a kill to nothing being left, in the median. Not a measurement of the machine: far over the usual.
const KILL_BUDGET: Duration = Duration::from_millis(50);

struct Setting {
    launcher: Launcher,
    isolation: Isolation,
    folder: tempfile::TempDir,
}

type Case = for<'a> fn(&'a Setting) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! cases {
    ($($case:ident),* $(,)?) => { &[$((stringify!($case), (|setting| Box::pin($case(setting))) as Case)),*] };
}

const EVERYWHERE: &[(&str, Case)] = cases![
    the_shell_keeps_its_state,
    exit_codes_and_streams,
    output_is_bounded,
    a_restart_brings_a_fresh_shell,
    a_shell_that_ends_says_so,
    a_timeout_ends_the_command_and_renews_the_shell,
    the_outer_limit_cancels_a_call,
    an_interrupt_ends_what_runs_and_what_waits,
    a_dropped_call_is_cancelled,
    calls_run_in_order,
    file_tools_and_shell_see_the_same_files,
    bad_calls_are_answers,
    a_large_call_goes_through,
    a_kill_ends_everything_soon,
    a_dropped_sandbox_ends,
    many_at_once,
];

const ISOLATED: &[(&str, Case)] = cases![
    toolchains_work,
    read_only_paths_are_offered,
    memory_and_processes_are_limited_per_sandbox,
    run_once_gives_the_end_and_the_output,
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
    for isolation in [Isolation::Full, Isolation::None] {
        let setting = runtime.block_on(async {
            let options = LauncherOptions {
                isolation,
                ..LauncherOptions::default()
            };
            let launcher = Launcher::start(options).await.expect("the launcher starts");
            Setting {
                launcher,
                isolation,
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

    async fn sandbox(&self) -> Sandbox {
        self.launcher
            .launch(SandboxOptions::new(self.workspace()))
            .await
            .expect("a sandbox")
    }
}

async fn call(sandbox: &Sandbox, name: &str, input: serde_json::Value) -> ToolOutput {
    sandbox
        .call(ToolCall::new(name, input))
        .await
        .expect("the sandbox answers")
}

async fn bash(sandbox: &Sandbox, command: &str) -> ToolOutput {
    call(sandbox, "bash", json!({ "command": command })).await
}

#[track_caller]
fn is(output: &ToolOutput, text: &str, is_error: bool) {
    assert_eq!((output.text().as_str(), output.is_error), (text, is_error));
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
    format!("4{:04}.{}", NEXT.fetch_add(1, Ordering::Relaxed), std::process::id())
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn the_shell_keeps_its_state(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    is(
        &bash(
            &sandbox,
            "mkdir -p a/b && cd a && x=5; f() { echo \"f $x\"; }; export Y=y",
        )
        .await,
        "(no output)",
        false,
    );
    is(
        &bash(&sandbox, "f; basename $PWD; bash -c 'echo $Y'").await,
        "f 5\na\ny",
        false,
    );
    is(&bash(&sandbox, "cd b").await, "(no output)", false);
    is(
        &bash(&sandbox, "pwd").await,
        sandbox.root().join("a/b").to_str().expect("a path"),
        false,
    );
}

async fn exit_codes_and_streams(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let output = bash(&sandbox, "echo out; echo err >&2; (exit 3)").await;
    is(&output, "out\nerr", true);
    assert_eq!(output.exit_code, Some(3));
    is(&bash(&sandbox, "false").await, "(no output)", true);
    is(&bash(&sandbox, "cat; read x; echo \"[$x]\"").await, "[]", false);
    is(&bash(&sandbox, "printf 'no newline'").await, "no newline", false);
    is(&bash(&sandbox, "printf '\\n\\n a \\n\\n'").await, "\n\n a ", false);
    is(
        &bash(&sandbox, "echo \"it's\" 'quoted' \"$((1+1))\" `echo back` # comment").await,
        "it's quoted 2 back",
        false,
    );
    is(
        &bash(&sandbox, "cat <<'END'\n$x `y` \\z\nEND").await,
        "$x `y` \\z",
        false,
    );
    is(
        &bash(&sandbox, "kill -SEGV $BASHPID & wait $!; echo $?")
            .await
            .text()
            .lines()
            .last()
            .map(|last| ToolOutput {
                content: vec![ContentBlock::Text { text: last.to_owned() }],
                is_error: false,
                exit_code: None,
                duration: Duration::ZERO,
            })
            .expect("a line"),
        "139",
        false,
    );
}

async fn output_is_bounded(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let text = bash(&sandbox, "seq 1 100000").await.text();
    assert!(
        text.starts_with("[output truncated]\n") && text.ends_with("\n100000"),
        "{} bytes",
        text.len()
    );
    assert!(
        (100_000..=100 * 1024 + 32).contains(&text.len()),
        "{} bytes",
        text.len()
    );
}

async fn a_restart_brings_a_fresh_shell(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    bash(&sandbox, "x=5; mkdir d; cd d").await;
    is(
        &call(&sandbox, "bash", json!({ "restart": true })).await,
        "bash session restarted",
        false,
    );
    is(
        &bash(&sandbox, "echo \"[$x] $PWD\"").await,
        &format!("[] {}", sandbox.root().display()),
        false,
    );
    let output = call(&sandbox, "bash", json!({})).await;
    assert!(
        output.is_error && output.text().contains("command"),
        "{}",
        output.text()
    );
}

async fn a_shell_that_ends_says_so(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    is(&bash(&sandbox, "echo bye; exit 0").await, "bye", true);
    let output = bash(&sandbox, "echo x").await;
    assert!(
        output.is_error && output.text().contains("restart"),
        "{}",
        output.text()
    );
    call(&sandbox, "bash", json!({ "restart": true })).await;
    is(&bash(&sandbox, "echo x").await, "x", false);
}

async fn a_timeout_ends_the_command_and_renews_the_shell(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let marker = marker();
    bash(&sandbox, "x=5").await;
    let output = call(
        &sandbox,
        "bash",
        json!({ "command": format!("sleep {marker} & sleep {marker}"), "timeout_ms": 400 }),
    )
    .await;
    assert!(output.is_error && output.text().contains("0.4s"), "{}", output.text());
    assert_eq!(on_host(&marker), 0);
    is(&bash(&sandbox, "echo \"[$x]\"").await, "[]", false);
}

async fn the_outer_limit_cancels_a_call(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let marker = marker();
    let input = json!({ "command": format!("sleep {marker}") });
    let output = sandbox
        .call(ToolCall {
            name: "bash".to_owned(),
            input,
            timeout: Duration::from_millis(300),
        })
        .await
        .expect("an answer");
    assert!(output.is_error && output.text().contains("0.3s"), "{}", output.text());
    assert_eq!(on_host(&marker), 0);
    is(&bash(&sandbox, "echo fine").await, "fine", false);
}

async fn an_interrupt_ends_what_runs_and_what_waits(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let marker = marker();
    let command = format!("sleep {marker}");
    let (running, waiting) = (bash(&sandbox, &command), bash(&sandbox, "echo never"));
    let stop = async {
        until("the command runs", || on_host(&marker) > 0).await;
        sandbox.interrupt().await.expect("interrupt");
    };
    let (running, waiting, ()) = tokio::join!(running, waiting, stop);
    assert!(
        running.is_error && running.text().contains("interrupted"),
        "{}",
        running.text()
    );
    assert!(
        waiting.is_error && waiting.text().contains("interrupted"),
        "{}",
        waiting.text()
    );
    assert_eq!(on_host(&marker), 0);
    is(&bash(&sandbox, "echo fine").await, "fine", false);
}

async fn a_dropped_call_is_cancelled(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let marker = marker();
    let command = format!("sleep {marker}");
    tokio::select! {
        output = bash(&sandbox, &command) => panic!("{output:?}"),
        () = until("the command runs", || on_host(&marker) > 0) => {}
    }
    is(&bash(&sandbox, "echo fine").await, "fine", false);
    assert_eq!(on_host(&marker), 0);
}

async fn calls_run_in_order(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let (a, b, c) = tokio::join!(
        bash(&sandbox, "sleep 0.1; echo a >> order"),
        bash(&sandbox, "echo b >> order"),
        call(&sandbox, "read", json!({ "file_path": "order" })),
    );
    assert!(!a.is_error && !b.is_error);
    is(&c, "a\nb\n", false);
}

async fn file_tools_and_shell_see_the_same_files(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    is(
        &call(
            &sandbox,
            "write",
            json!({ "file_path": "src/main.py", "content": "print('one')\n" }),
        )
        .await,
        "wrote 13 bytes to src/main.py",
        false,
    );
    is(
        &call(
            &sandbox,
            "edit",
            json!({ "file_path": "/workspace/src/main.py", "old_string": "one", "new_string": "two" }),
        )
        .await,
        "edited /workspace/src/main.py (1 replacement(s))",
        false,
    );
    is(&bash(&sandbox, "cat src/main.py").await, "print('two')", false);
    let path = sandbox.root().join("src/main.py");
    is(
        &call(&sandbox, "grep", json!({ "pattern": "two" })).await,
        &format!("{}:1:print('two')", path.display()),
        false,
    );
    is(
        &call(&sandbox, "glob", json!({ "pattern": "**/*.py" })).await,
        path.to_str().expect("a path"),
        false,
    );
    is(
        &call(&sandbox, "read", json!({ "file_path": path })).await,
        "print('two')\n",
        false,
    );
}

async fn bad_calls_are_answers(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    for (name, input) in [
        ("web_fetch", json!({})),
        ("bash", json!({ "cmd": "x" })),
        ("bash", json!([])),
        ("read", json!(null)),
        ("bash", json!({ "command": "a\0b" })),
        ("write", json!({ "file_path": "x" })),
        ("", json!({})),
    ] {
        assert!(call(&sandbox, name, input.clone()).await.is_error, "{name} {input}");
    }
    is(&bash(&sandbox, "echo fine").await, "fine", false);
}

async fn a_large_call_goes_through(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let content = "0123456789abcde\n".repeat(500_000);
    let output = call(&sandbox, "write", json!({ "file_path": "large", "content": content })).await;
    is(&output, "wrote 8000000 bytes to large", false);
    is(&bash(&sandbox, "wc -l < large").await, "500000", false);
    let command = format!("echo {} | wc -c", "y".repeat(100_000));
    is(&bash(&sandbox, &command).await, "100001", false);
    let refused = sandbox
        .call(ToolCall::new(
            "write",
            json!({ "file_path": "x", "content": "z".repeat(17 << 20) }),
        ))
        .await;
    assert!(matches!(refused, Err(SandboxError::CallTooLarge { .. })), "{refused:?}");
    is(&bash(&sandbox, "echo fine").await, "fine", false);
}

async fn a_kill_ends_everything_soon(setting: &Setting) {
    let mut times = Vec::new();
    for _ in 0..9 {
        let sandbox = setting.sandbox().await;
        let marker = marker();
        let many = format!("for i in 1 2 3 4 5 6 7 8; do setsid nohup sleep {marker} >/dev/null 2>&1 & done");
        bash(&sandbox, &many).await;
        until("they run", || on_host(&marker) == 8).await;
        let begun = Instant::now();
        sandbox.kill().await.expect("killed");
        times.push(begun.elapsed());
        assert_eq!(on_host(&marker), 0);
        let refused = sandbox
            .call(ToolCall::new("bash", json!({ "command": "echo x" })))
            .await;
        assert!(matches!(refused, Err(SandboxError::Ended(_))), "{refused:?}");
    }
    times.sort();
    let median = times.get(times.len() / 2).copied().expect("a median");
    println!("    from kill to nothing left: {median:?} in the median");
    assert!(median < KILL_BUDGET, "{median:?}");
}

async fn a_dropped_sandbox_ends(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    let marker = marker();
    bash(&sandbox, &format!("sleep {marker} >/dev/null 2>&1 &")).await;
    until("it runs", || on_host(&marker) == 1).await;
    drop(sandbox);
    until("it is gone", || on_host(&marker) == 0).await;
}

async fn many_at_once(setting: &Setting) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16 {
        let launcher = setting.launcher.clone();
        let options = SandboxOptions::new(setting.workspace());
        tasks.spawn(async move {
            let sandbox = launcher.launch(options).await.expect("a sandbox");
            for round in 0..5 {
                let output = bash(&sandbox, &format!("echo {number}-{round} | tee -a log")).await;
                is(&output, &format!("{number}-{round}"), false);
            }
            is(&bash(&sandbox, "wc -l < log").await, "5", false);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("each of them works");
    }
}

async fn toolchains_work(setting: &Setting) {
    let sandbox = setting.sandbox().await;
    is(&bash(&sandbox, "/usr/bin/python3 -c 'import sys, json, ssl, multiprocessing as m; p=m.Process(target=print, args=(6*7,)); p.start(); p.join(); print(p.exitcode)'").await, "42\n0", false);
    is(
        &bash(
            &sandbox,
            "echo 'int main(void){return 7;}' > x.c && cc -o x x.c && ./x; echo $?",
        )
        .await,
        "7",
        false,
    );
    is(&bash(&sandbox, "id -un; echo $HOME; touch ~/file && ls ~; echo t > /tmp/t && cat /var/tmp/t; echo shm > /dev/shm/s && cat /dev/shm/s; echo n > /dev/null; head -c 3 /dev/urandom | wc -c").await, "agent\n/home/agent\nfile\nt\nshm\n3", false);
    for (program, command, want) in [
        (
            "/usr/bin/git",
            "/usr/bin/git init -q . && /usr/bin/git -c user.name=a -c user.email=a@b commit -q --allow-empty -m one && /usr/bin/git log --format=%s",
            "one",
        ),
        (
            "/usr/bin/node",
            "/usr/bin/node -e \"require('child_process').exec('echo child', (e, o) => console.log(o.trim(), require('os').cpus().length >= 0))\"",
            "child true",
        ),
        (
            "/usr/bin/perl",
            "perl -e 'print join \",\", map { $_ * 2 } 1..3'",
            "2,4,6",
        ),
    ] {
        if std::path::Path::new(program).exists() {
            is(&bash(&sandbox, command).await, want, false);
        } else {
            println!("    {program} is not installed here");
        }
    }
}

async fn read_only_paths_are_offered(setting: &Setting) {
    let offered = setting.folder.path().join("offered");
    std::fs::create_dir_all(&offered).expect("a folder");
    std::fs::write(offered.join("tool"), "#!/bin/sh\necho offered\n").expect("a file");
    std::fs::set_permissions(
        offered.join("tool"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("its mode");
    let base = std::env::current_exe().ok();
    // `/tmp` is the sandbox's own, so what lies there cannot be offered under its name.
    let refused = Launcher::start(LauncherOptions {
        read_only_paths: vec![offered],
        ..LauncherOptions::default()
    })
    .await;
    assert!(
        matches!(&refused, Err(SandboxError::Step { step, .. }) if step == "read_only_paths"),
        "{refused:?} {base:?}"
    );
    let launcher = Launcher::start(LauncherOptions {
        read_only_paths: vec!["/var/lib".into()],
        ..LauncherOptions::default()
    })
    .await
    .expect("a launcher");
    let sandbox = launcher
        .launch(SandboxOptions::new(setting.workspace()))
        .await
        .expect("a sandbox");
    is(&bash(&sandbox, "test -d /var/lib/dpkg || test -n \"$(ls /var/lib)\"; echo $?; (: > /var/lib/x) 2>/dev/null; echo $?; ls /var/cache 2>/dev/null | wc -l").await, "0\n1\n0", false);
}

async fn memory_and_processes_are_limited_per_sandbox(setting: &Setting) {
    let limits = Limits {
        max_processes: 16,
        ..Limits::default()
    };
    let options = |folder| SandboxOptions {
        limits: limits.clone(),
        ..SandboxOptions::new(folder)
    };
    let one = setting
        .launcher
        .launch(options(setting.workspace()))
        .await
        .expect("a sandbox");
    let two = setting
        .launcher
        .launch(options(setting.workspace()))
        .await
        .expect("a sandbox");
    let fork = "import os, signal\nmade = []\ntry:\n  while len(made) < 100:\n    pid = os.fork()\n    if pid == 0: signal.pause()\n    made.append(pid)\nexcept OSError: pass\n";
    let all = "print(len(made))\nfor pid in made: os.kill(pid, 9), os.waitpid(pid, 0)\n";
    let write = json!({ "file_path": "fork.py", "content": format!("{fork}{all}") });
    assert!(!call(&one, "write", write).await.is_error);
    let made = bash(&one, "/usr/bin/python3 fork.py").await.text();
    assert!(made.parse::<u32>().is_ok_and(|made| (8..16).contains(&made)), "{made}");
    is(&bash(&two, "echo a | cat | cat").await, "a", false);
}

async fn run_once_gives_the_end_and_the_output(setting: &Setting) {
    let run = |argv: &[&str]| {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        setting
            .launcher
            .run_once(SandboxOptions::new(setting.workspace()), argv, true)
    };
    let outcome = run(&["/bin/sh", "-c", "echo $$ $(id -u); exit 9"])
        .await
        .expect("it ran");
    assert_eq!(
        (outcome.end.code, String::from_utf8_lossy(&outcome.output).as_ref()),
        (Some(9), "1 1000\n")
    );
    let failed = run(&["/no/such/program"]).await;
    assert!(
        matches!(&failed, Err(SandboxError::Step { step, .. }) if step == "exec"),
        "{failed:?}"
    );
    assert_eq!(setting.isolation, Isolation::Full);
}
