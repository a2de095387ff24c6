//! Attacks that need something on the host to attack, limits of their own, or a look from outside.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use outwork_sandbox::{LauncherOptions, Limits, Sandbox, SandboxError, SandboxOptions, Step, ToolCall};

use crate::{Outcome, Stage, Tally, bash, bash_for, expect, held};

macro_rules! cases {
    ($stage:expr, $tally:expr, $($name:literal => $case:ident),* $(,)?) => {
        $(if $tally.wants($name) {
            let outcome = $case($stage).await;
            $tally.note($name, outcome);
        })*
    };
}

pub(crate) async fn run(stage: &Stage, tally: &mut Tally) {
    cases!(stage, tally,
        "host file: by its full path" => host_file,
        "host file: through links, by the file tools" => links,
        "host file: through a link that is swapped while it is read" => swapped_read,
        "host file: through a link that is swapped while it is written" => swapped_write,
        "host file: a pipe or a device in place of a file" => special_files,
        "host socket: abstract" => abstract_socket,
        "host socket: a listener on the host's loopback" => host_listener,
        "host shared memory and message queues" => shared_memory,
        "host process: signals and memory by its pid" => host_process,
        "worker secrets: its environment and descriptors" => worker_secrets,
        "ownership: files made inside belong to the workspace's owner" => ownership,
        "fork bomb" => fork_bomb,
        "memory bomb" => memory_bomb,
        "disk: fill /tmp" => fill_tmp,
        "disk: one huge file in the workspace" => huge_file,
        "output: more than is kept" => huge_output,
        "output: without end" => endless_output,
        "output: terminal sequences" => terminal,
        "shell: commands that break out of their quotes" => quotes,
        "shell: a shell that no longer reports" => mute_shell,
        "ends: kill -9 -1" => kill_everything,
        "ends: a hidden background process does not survive a kill" => survivor,
        "ends: what a cancelled call started is dead" => cancelled,
        "ends: nothing outlives the launcher" => orphan,
        "neighbours: two sandboxes do not see each other" => neighbours,
        "fail closed: a step that fails runs nothing" => fail_closed,
    );
}

async fn tool(sandbox: &Sandbox, name: &str, input: serde_json::Value) -> outwork_sandbox::ToolOutput {
    sandbox
        .call(ToolCall::new(name, input))
        .await
        .expect("the sandbox answers")
}

async fn host_file(stage: &Stage) -> Outcome {
    let secret = stage.host.path().join("secret");
    std::fs::write(&secret, "SECRET-OF-THE-HOST").expect("a secret");
    let sandbox = stage.sandbox(Limits::default()).await;
    let path = secret.display();
    let output = bash(
        &sandbox,
        &format!("cat {path} /workspace/../secret /proc/self/root{path}; ls -R /tmp; echo HELD"),
    )
    .await;
    expect(!output.text().contains("SECRET-OF"), &output.text()).and(held(&output.text(), None))
}

async fn links(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    bash(&sandbox, "ln -sfn /etc etc; ln -sfn /etc/passwd passwd; ln -sfn ../etc/passwd up; ln -sfn /proc/self/root/etc/passwd magic; ln -sfn /proc/1/environ environ; ln -sfn loop loop; ln -sfn /tmp/new dangling").await;
    for path in [
        "etc/passwd",
        "passwd",
        "up",
        "magic",
        "environ",
        "loop",
        "/etc/passwd",
        "../etc/passwd",
        "a/../../etc/passwd",
        "/workspace/../etc/passwd",
        "/proc/self/environ",
        "~/x",
        "/tmp/.home/x",
    ] {
        for (name, input) in [
            ("read", serde_json::json!({ "file_path": path })),
            ("write", serde_json::json!({ "file_path": path, "content": "x" })),
            (
                "edit",
                serde_json::json!({ "file_path": path, "old_string": "a", "new_string": "b" }),
            ),
            ("grep", serde_json::json!({ "pattern": "agent", "path": path })),
            ("glob", serde_json::json!({ "pattern": "*", "path": path })),
        ] {
            // `~` is an ordinary name to a file tool.
            let output = tool(&sandbox, name, input).await;
            if !output.is_error && !path.starts_with('~') {
                return Err(format!("{name} {path}: {}", output.text()));
            }
        }
    }
    let output = tool(
        &sandbox,
        "write",
        serde_json::json!({ "file_path": "dangling", "content": "x" }),
    )
    .await;
    expect(output.is_error, "wrote through a dangling link")?;
    for (name, input) in [
        ("grep", serde_json::json!({ "pattern": "agent:x" })),
        ("glob", serde_json::json!({ "pattern": "**/passwd*" })),
        ("glob", serde_json::json!({ "pattern": "etc/*" })),
    ] {
        let text = tool(&sandbox, name, input).await.text();
        expect(!text.contains("agent:x") && !text.contains("etc/passwd"), &text)?;
    }
    Ok(())
}

/// Swaps `d` between a folder of the workspace and a link to `/etc`, as fast as it can.
const SWAP: &str = "mkdir -p real; echo inside > real/hostname; rm -rf d evil; cp -r real d; ln -sfn /etc evil; cat > swap.py <<'END'\nimport ctypes, os\nlibc = ctypes.CDLL(None)\nwhile True:\n    libc.renameat2(-100, b'd', -100, b'evil', 2)\nEND\npython3 swap.py & sleep 0.2";

/// How long a race is given to go both ways.
const RACE: Duration = Duration::from_secs(30);

async fn swapped_read(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    bash(&sandbox, SWAP).await;
    let (mut inside, mut refused) = (0, 0);
    let begun = Instant::now();
    while inside + refused < 1500 || ((inside == 0 || refused == 0) && begun.elapsed() < RACE) {
        let output = tool(&sandbox, "read", serde_json::json!({ "file_path": "d/hostname" })).await;
        match output.text().as_str() {
            "inside\n" => inside += 1,
            text if output.is_error && !text.contains("sandbox") => refused += 1,
            other => return Err(format!("read {other}")),
        }
    }
    let grep = tool(
        &sandbox,
        "grep",
        serde_json::json!({ "pattern": "sandbox|root:", "path": "." }),
    )
    .await
    .text();
    expect(!grep.contains("hostname:1:sandbox"), &grep)?;
    expect(
        inside > 0 && refused > 0,
        &format!("the race was not run: {inside} inside, {refused} refused"),
    )
}

async fn swapped_write(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    // /tmp can be written by the workload itself, but not through the file tools.
    bash(&sandbox, &SWAP.replace("/etc", "/tmp")).await;
    let (mut inside, mut refused) = (0, 0);
    let begun = Instant::now();
    while inside + refused < 1500 || ((inside == 0 || refused == 0) && begun.elapsed() < RACE) {
        let output = tool(
            &sandbox,
            "write",
            serde_json::json!({ "file_path": "d/made", "content": "x" }),
        )
        .await;
        if output.is_error { refused += 1 } else { inside += 1 }
    }
    let output = bash(&sandbox, "test -e /tmp/made && echo BREACH; echo HELD").await;
    expect(
        inside > 0 && refused > 0,
        &format!("the race was not run: {inside} inside, {refused} refused"),
    )?;
    held(&output.text(), None)
}

async fn special_files(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    bash(&sandbox, "rm -f pipe; mkfifo pipe; ln -sfn /dev/zero zero; mkdir -p folder; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"").await;
    let begun = Instant::now();
    for path in ["pipe", "zero", "folder", "sock"] {
        for (name, input) in [
            ("read", serde_json::json!({ "file_path": path })),
            ("write", serde_json::json!({ "file_path": path, "content": "x" })),
            (
                "edit",
                serde_json::json!({ "file_path": path, "old_string": "a", "new_string": "b" }),
            ),
        ] {
            let output = tool(&sandbox, name, input).await;
            expect(output.is_error, &format!("{name} {path}: {}", output.text()))?;
        }
    }
    tool(&sandbox, "grep", serde_json::json!({ "pattern": "x" })).await;
    expect(
        begun.elapsed() < Duration::from_secs(20),
        "a file tool waited for a pipe",
    )
}

async fn abstract_socket(stage: &Stage) -> Outcome {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("outwork-attack-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("an address");
    let _listener = UnixListener::bind_addr(&address).expect("an abstract listener");
    let sandbox = stage.sandbox(Limits::default()).await;
    held(
        &bash(&sandbox, &format!("./attack abstract {name}")).await.text(),
        Some("ECONNREFUSED"),
    )
}

async fn host_listener(stage: &Stage) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("its address").port();
    let sandbox = stage.sandbox(Limits::default()).await;
    held(
        &bash(&sandbox, &format!("./attack connect 127.0.0.1 {port}"))
            .await
            .text(),
        Some("ECONNREFUSED"),
    )?;
    // The sandbox's own loopback works.
    let own = "python3 -c \"import socket; s=socket.create_server(('127.0.0.1',0)); c=socket.create_connection(s.getsockname()); s.accept()[0].send(b'HELD'); print(c.recv(9).decode())\"";
    held(&bash(&sandbox, own).await.text(), None)
}

async fn shared_memory(stage: &Stage) -> Outcome {
    let key = 0x0b0b_0000 + std::process::id() % 60_000;
    let queue = format!("/outwork-attack-{}", std::process::id());
    let made = std::process::Command::new("python3")
        .args(["-c", "import ctypes,sys; l=ctypes.CDLL(None); print(l.shmget(int(sys.argv[1]),4096,0o1666), ctypes.CDLL('librt.so.1').mq_open(sys.argv[2].encode(),0o102,0o666,None))"])
        .args([key.to_string(), queue.clone()])
        .output()
        .expect("python3");
    let text = String::from_utf8_lossy(&made.stdout).into_owned();
    expect(
        !text.contains('-') && !text.is_empty(),
        &format!("the host's objects were not made: {text}"),
    )?;
    let sandbox = stage.sandbox(Limits::default()).await;
    let shm = held(
        &bash(&sandbox, &format!("./attack shm {key}")).await.text(),
        Some("ENOENT"),
    );
    let mqueue = held(
        &bash(&sandbox, &format!("./attack mqueue {queue}")).await.text(),
        Some("ENOENT"),
    );
    let removed = std::process::Command::new("python3")
        .args(["-c", "import ctypes,sys; l=ctypes.CDLL(None); l.shmctl(l.shmget(int(sys.argv[1]),0,0),0,None); ctypes.CDLL('librt.so.1').mq_unlink(sys.argv[2].encode())"])
        .args([key.to_string(), queue])
        .status();
    expect(removed.is_ok(), "python3")?;
    shm.and(mqueue)
}

async fn host_process(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    let mut victim = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .expect("a process of the host");
    let pid = victim.id();
    let outcome = match bash(
        &sandbox,
        &format!("test -d /proc/{pid} && echo BREACH; kill -9 {pid} 2>/dev/null; ./attack signal {pid}"),
    )
    .await
    .text()
    {
        text if victim.try_wait().ok().flatten().is_none() => held(&text, Some("ESRCH")),
        text => Err(format!("the process was ended: {text}")),
    };
    let _ = victim.kill();
    let _ = victim.wait();
    outcome
}

async fn worker_secrets(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    let output = bash(
        &sandbox,
        "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; echo HELD",
    )
    .await;
    let text = output.text();
    for line in text.lines() {
        let name = line.split('=').next().unwrap_or_default();
        let known = [
            "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PWD", "OLDPWD", "PS1", "PS2", "TERM", "SHLVL", "_",
            "HELD", "",
        ];
        expect(known.contains(&name), &format!("a variable of the worker: {line}"))?;
    }
    expect(text.contains("HOME=/home/agent"), "the shell's own variables are there")?;
    held(&text, None)
}

async fn ownership(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    bash(&sandbox, "echo x > made; mkdir -p made-folder; id -u > id").await;
    let found = std::fs::metadata(stage.workspace().join("made")).map_err(|error| error.to_string())?;
    let owner = std::fs::metadata(stage.workspace()).map_err(|error| error.to_string())?;
    expect(
        found.uid() == owner.uid() && found.gid() == owner.gid(),
        &format!("made by {}:{}", found.uid(), found.gid()),
    )?;
    // And no process of it is root outside.
    let marker = format!("300.{}", std::process::id());
    bash(&sandbox, &format!("sleep {marker} & sleep 0.05")).await;
    let processes = on_host(&marker);
    expect(!processes.is_empty(), "the process is there")?;
    for pid in processes {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string())?;
        let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap_or_default();
        expect(
            uids.split_whitespace().skip(1).all(|uid| uid != "0"),
            &format!("runs as root outside: {uids}"),
        )?;
    }
    Ok(())
}

fn small() -> Limits {
    Limits {
        memory_bytes: 192 << 20,
        max_processes: 64,
        disk_bytes: 8 << 20,
        ..Limits::default()
    }
}

async fn fork_bomb(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(small()).await;
    let before = processes();
    let bomb = bash_for(
        &sandbox,
        "bomb() { bomb | bomb & }; bomb; while :; do :; done",
        Duration::from_secs(2),
    );
    let output = bomb.await;
    expect(output.is_error, &output.text())?;
    expect(processes() < before + 200, "more processes than the limit")?;
    let output = bash(&sandbox, "echo $((40+2))").await;
    expect(output.text().ends_with("42"), &output.text())?;
    let quiet = bash(&sandbox, "ls -d /proc/[0-9]* | wc -l").await.text();
    expect(
        quiet.trim().parse::<usize>().is_ok_and(|count| count < 10),
        &format!("the bomb goes on: {quiet}"),
    )
}

async fn memory_bomb(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(small()).await;
    let limited = stage
        .report
        .step("memory limit")
        .is_some_and(|step| !Step::is_missing(step));
    let one = "python3 -c \"x=bytearray(1<<30); print('BRE'+'ACH')\"; echo HELD";
    let call = sandbox
        .call(ToolCall::new("bash", serde_json::json!({ "command": one })))
        .await;
    match call {
        Ok(output) => held(&output.text(), None)?,
        // The whole sandbox may be what the kernel ends; that contains it too.
        Err(SandboxError::Ended(_)) if limited => return Ok(()),
        Err(error) => return Err(error.to_string()),
    }
    // Many processes together: held by a group; where there is none, the probe must have said so.
    let many = "for i in 1 2 3 4; do python3 -c \"x=bytearray(100<<20); import time; time.sleep(3); print('ali'+'ve')\" & done; wait; echo HELD";
    match sandbox
        .call(ToolCall::new("bash", serde_json::json!({ "command": many })))
        .await
    {
        Ok(output) => {
            let alive = output.text().matches("alive").count();
            expect(alive < 2 || !limited, &format!("{alive} of 4 lived: {}", output.text()))
        }
        Err(SandboxError::Ended(_)) if limited => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn fill_tmp(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(small()).await;
    let script = "for d in /tmp /home/agent /dev/shm /var/tmp; do i=0; while dd if=/dev/zero of=$d/fill$i bs=1M count=4 2>/dev/null; do i=$((i+1)); test $i -gt 8 && echo BREACH $d && break; done; done; du -sm /tmp | cut -f1 | awk '$1 > 9 {print \"BREACH\", $1}'; rm -f /tmp/fill*; echo x > /tmp/again && echo HELD";
    held(&bash(&sandbox, script).await.text(), None)
}

async fn huge_file(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(small()).await;
    let script = "dd if=/dev/zero of=big bs=1M count=64 2>/dev/null && echo BREACH; truncate -s 1G sparse 2>/dev/null && echo BREACH; fallocate -l 1G allocated 2>/dev/null && echo BREACH; test $(stat -c %s big) -le 8388608 && echo HELD; rm -f big sparse allocated";
    held(&bash(&sandbox, script).await.text(), None)
}

async fn huge_output(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    let output = bash(&sandbox, "yes 0123456789 | head -c 60000000; echo THE-END").await;
    let text = output.text();
    expect(
        text.len() < 103_000 && text.starts_with("[output truncated]\n") && text.ends_with("THE-END"),
        &format!("{} bytes", text.len()),
    )
}

async fn endless_output(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    let begun = Instant::now();
    let output = bash_for(&sandbox, "yes", Duration::from_millis(300)).await;
    expect(
        output.is_error && begun.elapsed() < Duration::from_secs(20),
        &output.text(),
    )?;
    expect(
        bash(&sandbox, "echo fine").await.text() == "fine",
        "the shell is renewed",
    )
}

async fn terminal(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    let output = bash(&sandbox, "printf 'a\\033]52;c;ZXZpbA==\\007b\\033[2J\\033[1;1Hc\\033P+q544e\\033\\\\d\\033[6n\\302\\2331me\\010\\007\\000f'").await;
    expect(output.text() == "abcdef", &format!("{:?}", output.text()))
}

async fn quotes(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    for (command, code) in [
        ("echo 'unclosed", 1),
        ("cat <<END\nunclosed", 0),
        ("}; exit_code=5; {", 1),
        ("echo \"'\"", 0),
        ("'", 1),
        ("(", 1),
        ("if true; then", 1),
        ("\\", 127),
        ("# comment", 0),
    ] {
        let output = bash_for(&sandbox, command, Duration::from_secs(10)).await;
        let got = output.exit_code.ok_or(format!("{command:?}: {}", output.text()))?;
        expect(
            (got != 0) == (code != 0),
            &format!("{command:?}: code {got}: {}", output.text()),
        )?;
    }
    expect(
        bash(&sandbox, "echo fine").await.text() == "fine",
        "the shell is as it was",
    )
}

async fn mute_shell(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    let output = bash_for(
        &sandbox,
        "builtin() { :; }; printf() { :; }; eval() { :; }",
        Duration::from_millis(500),
    )
    .await;
    expect(output.is_error, &output.text())?;
    expect(
        bash(&sandbox, "echo fine").await.text() == "fine",
        "the shell is renewed",
    )
}

async fn kill_everything(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    let output = bash(&sandbox, "kill -9 -1; echo alive").await;
    // Everything but the hand may be dead; then a restart brings a shell.
    let _ = output;
    tool(&sandbox, "bash", serde_json::json!({ "restart": true })).await;
    expect(bash(&sandbox, "echo fine").await.text() == "fine", "the hand survived")
}

/// Pids on the host whose command line has this word.
fn on_host(marker: &str) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == marker.as_bytes())
        })
        .collect()
}

/// The same once there is one, or none if none comes.
async fn appeared(marker: &str) -> Vec<u32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = on_host(marker);
        if !found.is_empty() || Instant::now() > deadline {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn processes() -> usize {
    std::fs::read_dir("/proc")
        .map(|entries| {
            entries
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
                .count()
        })
        .unwrap_or(0)
}

async fn survivor(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    let marker = format!("301.{}", std::process::id());
    bash(&sandbox, &format!("(trap '' HUP TERM INT; setsid nohup bash -c 'trap \"\" HUP TERM INT; sleep {marker} & disown; while :; do sleep 1; done' >/dev/null 2>&1 &) ; sleep 0.3")).await;
    expect(!appeared(&marker).await.is_empty(), "the process runs")?;
    sandbox.kill().await.map_err(|error| error.to_string())?;
    expect(on_host(&marker).is_empty(), "it lives on")
}

async fn cancelled(stage: &Stage) -> Outcome {
    let sandbox = stage.sandbox(Limits::default()).await;
    let (kept, started) = (
        format!("302.{}", std::process::id()),
        format!("303.{}", std::process::id()),
    );
    bash(&sandbox, &format!("sleep {kept} & sleep 0.1")).await;
    let command = format!("setsid nohup sleep {started} >/dev/null 2>&1 & sleep {started}");
    let call = sandbox.call(ToolCall::new("bash", serde_json::json!({ "command": command })));
    let stop = async {
        while on_host(&started).len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sandbox.interrupt().await
    };
    let (output, stopped) = tokio::join!(call, stop);
    stopped.map_err(|error| error.to_string())?;
    let output = output.map_err(|error| error.to_string())?;
    expect(output.is_error && output.text().contains("interrupted"), &output.text())?;
    expect(on_host(&started).is_empty(), "what it started lives on")?;
    expect(
        !on_host(&kept).is_empty(),
        "what an earlier call left in the background was ended",
    )?;
    expect(
        bash(&sandbox, "echo fine").await.text() == "fine",
        "the sandbox lives on",
    )
}

async fn orphan(stage: &Stage) -> Outcome {
    let launcher = outwork_sandbox::Launcher::start(LauncherOptions::default())
        .await
        .map_err(|error| error.to_string())?;
    let sandbox = launcher
        .launch(SandboxOptions::new(stage.workspace()))
        .await
        .map_err(|error| error.to_string())?;
    let marker = format!("304.{}", std::process::id());
    bash(
        &sandbox,
        &format!("setsid nohup sleep {marker} >/dev/null 2>&1 & sleep 0.2"),
    )
    .await;
    let found = appeared(&marker).await;
    expect(!found.is_empty(), "the process runs")?;
    // The handles are forgotten and the launcher killed, as if the worker had been ended by SIGKILL.
    let launcher_pid = launcher_of(found.first().copied().unwrap_or_default());
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(launcher_pid).ok_or("no launcher")?,
        rustix::process::Signal::KILL,
    )
    .map_err(|error| error.to_string())?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !on_host(&marker).is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    expect(on_host(&marker).is_empty(), "it outlived the launcher")
}

/// The ancestor whose parent is this process.
fn launcher_of(mut pid: u32) -> i32 {
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

async fn neighbours(stage: &Stage) -> Outcome {
    let (one, two) = (
        stage.sandbox(Limits::default()).await,
        stage.sandbox(Limits::default()).await,
    );
    let marker = format!("305.{}", std::process::id());
    bash(&one, &format!("echo private > /tmp/private; echo p > /dev/shm/p; sleep {marker} & python3 -c \"import socket,time; s=socket.create_server(('127.0.0.1',4444)); time.sleep(600)\" & ./attack shm 77; sleep 0.3")).await;
    let look = format!(
        "test -e /tmp/private && echo BREACH file; test -e /dev/shm/p && echo BREACH shm; grep -al 'slee[p].{marker}' /proc/[0-9]*/cmdline 2>/dev/null | sed 's/^/BREACH /'; ./attack connect 127.0.0.1 4444"
    );
    held(&bash(&two, &look).await.text(), Some("ECONNREFUSED"))
}

async fn fail_closed(stage: &Stage) -> Outcome {
    let gone = stage.host.path().join("gone");
    std::fs::create_dir(&gone).map_err(|error| error.to_string())?;
    let options = SandboxOptions::new(&gone);
    std::fs::remove_dir(&gone).map_err(|error| error.to_string())?;
    expect(
        matches!(
            stage.launcher.launch(options).await,
            Err(SandboxError::Workspace { .. })
        ),
        "a missing workspace",
    )?;
    for path in ["/", "/etc", "/usr/lib", "/proc/self"] {
        expect(
            matches!(
                stage.launcher.launch(SandboxOptions::new(path)).await,
                Err(SandboxError::Workspace { .. })
            ),
            path,
        )?;
    }
    // A folder that the sandbox would not build over.
    let bad = LauncherOptions {
        read_only_paths: vec!["/proc/1".into()],
        ..LauncherOptions::default()
    };
    match outwork_sandbox::Launcher::start(bad).await {
        Err(SandboxError::Step { step, .. }) if step == "read_only_paths" => {}
        other => return Err(format!("{other:?}")),
    }
    // A program that cannot be run is a named step, not a silent end.
    let run = stage
        .launcher
        .run_once(
            SandboxOptions::new(stage.workspace()),
            vec!["/no/such/program".to_owned()],
            false,
        )
        .await;
    expect(
        matches!(&run, Err(SandboxError::Step { step, .. }) if step == "exec"),
        &format!("{run:?}"),
    )?;
    // Without cgroups a CPU limit cannot be kept, so it is refused.
    let limits = Limits {
        cpu_percent: Some(50),
        ..Limits::default()
    };
    let options = SandboxOptions {
        limits,
        ..SandboxOptions::new(stage.workspace())
    };
    let outcome = stage.launcher.launch(options).await;
    let offered = stage.report.step("cpu limit").is_some_and(|step| !step.is_missing());
    expect(
        outcome.is_ok() == offered,
        &format!("cpu limit offered: {offered}, got {outcome:?}"),
    )?;
    Ok(())
}
