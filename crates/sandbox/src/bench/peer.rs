//! Other sandboxes, run in turn with ours: a command for each start, or a program that stays and starts one for each line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a peer may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// Another sandbox that runs the same static program.
#[derive(Debug)]
pub struct Peer {
    /// Its name, for the figures.
    pub name: String,
    how: How,
}

#[derive(Debug)]
enum How {
    /// Started anew each time.
    Command(Vec<String>),
    /// Stays; each line that it is sent starts a sandbox, and the line that it answers is its exit code.
    Lines {
        child: Child,
        input: ChildStdin,
        output: BufReader<ChildStdout>,
        line: String,
    },
}

impl Peer {
    /// `bwrap` with every namespace, if it is installed.
    pub fn bwrap(program: &Path) -> Option<Self> {
        let mut version = Command::new("bwrap");
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        version.status().ok()?;
        let words = "bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev";
        let mut argv: Vec<String> = words.split(' ').map(str::to_owned).collect();
        argv.push(program.to_str()?.to_owned());
        Some(Self {
            name: "bwrap --unshare-all".to_owned(),
            how: How::Command(argv),
        })
    }

    /// `crun` on a bundle that is made in `folder`. It wants to see one version of control groups only, so a shell that
    /// stays starts it where there is only the second.
    pub fn crun(folder: &Path, program: &Path) -> std::io::Result<Self> {
        let bundle = folder.join("crun");
        for place in ["rootfs/proc", "rootfs/dev"] {
            std::fs::create_dir_all(bundle.join(place))?;
        }
        std::fs::copy(program, bundle.join("rootfs/true"))?;
        let kinds = ["pid", "mount", "network", "ipc", "uts", "cgroup"];
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["/true"], "cwd": "/", "noNewPrivileges": true },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": { "namespaces": kinds.map(|kind| serde_json::json!({ "type": kind })) },
        });
        std::fs::write(bundle.join("config.json"), config.to_string())?;
        let script = "mount -t cgroup2 none /sys/fs/cgroup || exit 1\n\
                      echo ready\n\
                      while read -r line; do\n\
                      crun --cgroup-manager=disabled --root \"$1/state\" run --bundle \"$1\" \"bench-$$\"; echo $?\n\
                      done";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&bundle);
        Self::lines("crun", command)
    }

    /// A program that says `ready`, and then for each line starts a sandbox and says how it ended.
    pub fn lines(name: &str, mut command: Command) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("the peer has no pipes"));
        };
        let mut peer = Self {
            name: name.to_owned(),
            how: How::Lines {
                child,
                input,
                output: BufReader::new(output),
                line: String::new(),
            },
        };
        let begun = Instant::now();
        match peer.answer() {
            Ok(line) if line == "ready" && begun.elapsed() < READY => {}
            Ok(line) => {
                return Err(std::io::Error::other(format!(
                    "{name} said `{line}` in place of `ready`"
                )));
            }
            Err(error) => return Err(error),
        }
        // One that cannot run the program is no peer.
        peer.once()?;
        Ok(peer)
    }

    fn answer(&mut self) -> std::io::Result<String> {
        match &mut self.how {
            How::Command(_) => Ok("0".to_owned()),
            How::Lines { output, line, .. } => {
                line.clear();
                output.read_line(line)?;
                Ok(line.trim().to_owned())
            }
        }
    }

    /// Starts one and waits for its end.
    pub fn once(&mut self) -> std::io::Result<Duration> {
        let begun = Instant::now();
        let ended = match &mut self.how {
            How::Command(argv) => {
                let (program, arguments) = argv.split_first().ok_or_else(|| std::io::Error::other("no command"))?;
                Command::new(program).args(arguments).status()?.code()
            }
            How::Lines { input, .. } => {
                input.write_all(b"true\n")?;
                self.answer()?.parse().ok()
            }
        };
        match ended {
            Some(0) => Ok(begun.elapsed()),
            other => Err(std::io::Error::other(format!("{} ended with {other:?}", self.name))),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let How::Lines { child, .. } = &mut self.how {
            // It has been measured; how it ends is its own affair.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
