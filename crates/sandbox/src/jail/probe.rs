//! What this machine can isolate: each step tried, not looked up.
//!
//! The trials run in a fresh process of this program (which calls [`super::entry`]), because they clone. The last one is
//! a whole sandbox that runs a program to its end.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde::{Deserialize, Serialize};

use super::cgroup::Backend;
use super::sys::{self, Side};
use super::wire::{self, Boot, Launch, Said};
use super::{HIDDEN, fence, init, network, template};
use crate::options::{Isolation, Limits, RootImage};

/// Second argument of the process that tries the steps.
pub(super) const PROBE: &str = "probe";

/// Whether a sandbox can do without a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Without it nothing runs.
    Required,
    /// Without it something is weaker or unavailable, as the reason says.
    Optional,
}

/// How a step came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It works; with a detail, such as a version.
    Available(String),
    /// It does not.
    Missing {
        /// What was tried and what the system said.
        reason: String,
        /// What to do.
        mend: String,
    },
}

/// One isolation step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name; errors of a launch use the same names.
    pub name: String,
    /// Whether it is needed.
    pub need: Need,
    /// How it came out.
    pub state: StepState,
}

/// All steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// In the order in which a sandbox is built.
    pub steps: Vec<Step>,
}

impl Report {
    /// Whether a worker may start with full isolation.
    pub fn ready(&self) -> bool {
        !self
            .steps
            .iter()
            .any(|step| step.need == Need::Required && step.is_missing())
    }

    /// The step of this name.
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// Steps that do not work.
    pub fn missing(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.is_missing())
    }
}

impl Step {
    /// Whether it does not work.
    pub fn is_missing(&self) -> bool {
        matches!(self.state, StepState::Missing { .. })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match &step.state {
                StepState::Available(detail) if detail.is_empty() => writeln!(f, "ok       {}", step.name)?,
                StepState::Available(detail) => writeln!(f, "ok       {}: {detail}", step.name)?,
                StepState::Missing { reason, mend } => {
                    let word = if step.need == Need::Required {
                        "MISSING "
                    } else {
                        "weaker  "
                    };
                    writeln!(f, "{word} {}: {reason}. To mend: {mend}", step.name)?;
                }
            }
        }
        Ok(())
    }
}

/// Tries every isolation step on this machine, as this user. Takes some tens of milliseconds; blocks.
///
/// The program that calls it must call [`crate::entry`] first in `main`.
pub fn probe() -> Report {
    let asked = Command::new("/proc/self/exe")
        .args([HIDDEN, PROBE])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let reason = match asked {
        Ok(output) => match serde_json::from_slice(&output.stdout) {
            Ok(report) => return report,
            Err(error) => format!("the probe process gave no report: {error}"),
        },
        Err(error) => format!("the probe process could not be started: {error}"),
    };
    let mend = "the program must call outwork_sandbox::entry() first in main, and /proc must be mounted".to_owned();
    let state = StepState::Missing { reason, mend };
    Report {
        steps: vec![Step {
            name: "launcher".to_owned(),
            need: Need::Required,
            state,
        }],
    }
}

/// The probe process. Prints the report and ends.
pub(super) fn run() -> ! {
    let report = Report { steps: steps() };
    let text = serde_json::to_vec(&report).unwrap_or_default();
    let _ = std::io::stdout().write_all(&text);
    let _ = std::io::stdout().flush();
    sys::exit_now(0)
}

const USERNS_MEND: &str = "allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile for outwork), or run the worker as root; in a container, allow clone with CLONE_NEW* flags";

fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    let mut add = |name: &str, need: Need, outcome: Result<String, String>, mend: &str| {
        let state = match outcome {
            Ok(detail) => StepState::Available(detail),
            Err(reason) => StepState::Missing {
                reason,
                mend: mend.to_owned(),
            },
        };
        steps.push(Step {
            name: name.to_owned(),
            need,
            state,
        });
    };
    let nothing = || Ok(String::new());
    add("user namespace", Need::Required, trial(0, &nothing), USERNS_MEND);
    for (name, flag) in [
        ("mount namespace", libc::CLONE_NEWNS),
        ("pid namespace", libc::CLONE_NEWPID),
        ("net namespace", libc::CLONE_NEWNET),
        ("ipc namespace", libc::CLONE_NEWIPC),
        ("uts namespace", libc::CLONE_NEWUTS),
        ("cgroup namespace", libc::CLONE_NEWCGROUP),
    ] {
        add(
            name,
            Need::Required,
            trial(flag, &nothing),
            "use a kernel with this namespace (all distribution kernels have it), or allow clone with this flag in the container",
        );
    }
    add("inside user", Need::Required, trial(0, &inside_user), USERNS_MEND);
    add(
        "loopback",
        Need::Required,
        trial(libc::CLONE_NEWNET, &|| detail(sys::interface_up(b"lo"))),
        "use a kernel with network namespaces",
    );
    add(
        network::STEP,
        Need::Optional,
        trial(libc::CLONE_NEWNET, &|| {
            network::raise()
                .map(|_| "nf_tables".to_owned())
                .map_err(|error| error.reason)
        }),
        "sandboxes with a network policy are refused without it: use a kernel with nf_tables (load the modules nf_tables, nft_chain_nat, nft_nat, nft_ct and nft_reject_inet)",
    );
    add(
        "tmpfs",
        Need::Required,
        trial(libc::CLONE_NEWNS, &|| {
            detail(template::tmpfs(
                &[("size", "64k")],
                rustix::mount::MountAttrFlags::empty(),
            ))
        }),
        "use Linux 5.12 or newer",
    );
    add(
        "overlayfs",
        Need::Optional,
        trial(libc::CLONE_NEWNS, &overlay),
        "sandboxes with an image, or with files in folders of the system, are refused without it: use a kernel with overlayfs (load the module overlay)",
    );
    add(
        "openat2",
        Need::Required,
        trial(0, &|| {
            let resolve = rustix::fs::ResolveFlags::BENEATH;
            detail(rustix::fs::openat2(
                rustix::fs::CWD,
                ".",
                rustix::fs::OFlags::PATH,
                rustix::fs::Mode::empty(),
                resolve,
            ))
        }),
        "use Linux 5.6 or newer, or allow openat2 in the container's seccomp profile",
    );
    add(
        "no_new_privs",
        Need::Required,
        trial(0, &|| detail(rustix::thread::set_no_new_privs(true))),
        "use Linux 3.5 or newer",
    );
    add(
        "landlock",
        Need::Required,
        landlock(),
        "use Linux 6.2 or newer with landlock in the boot parameter `lsm=`, or allow the landlock calls in the container's seccomp profile",
    );
    add(
        "seccomp",
        Need::Required,
        sys::seccomp_action_available(libc::SECCOMP_RET_KILL_PROCESS)
            .map(|()| String::new())
            .map_err(|error| error.to_string()),
        "use a kernel with CONFIG_SECCOMP_FILTER",
    );
    add(
        "capabilities",
        Need::Required,
        trial(0, &|| detail(sys::drop_bounding_set(0))),
        USERNS_MEND,
    );
    limits(&mut add);
    add(
        "whole sandbox",
        Need::Required,
        whole(),
        "mend the steps above; if none is missing, the step named here says what the machine refuses (often a container whose /proc is masked: run the worker outside it, or with an unmasked /proc)",
    );
    steps
}

fn detail<T, E: fmt::Display>(result: Result<T, E>) -> Result<String, String> {
    result.map(|_| String::new()).map_err(|error| error.to_string())
}

fn inside_user() -> Result<String, String> {
    let (uid, gid) = (
        rustix::process::Uid::from_raw(init::INSIDE_ID),
        rustix::process::Gid::from_raw(init::INSIDE_ID),
    );
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|error| error.to_string())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|error| error.to_string())?;
    Ok(format!("uid {}", rustix::process::getuid().as_raw()))
}

fn overlay() -> Result<String, String> {
    use rustix::mount::{FsOpenFlags, fsopen};
    detail(fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC))
}

fn landlock() -> Result<String, String> {
    let abi = sys::landlock_abi().map_err(|error| error.to_string())?;
    if abi < fence::NEEDED_ABI {
        return Err(format!("the kernel has version {abi}, needed is {}", fence::NEEDED_ABI));
    }
    Ok(format!("version {abi}"))
}

fn limits(add: &mut impl FnMut(&str, Need, Result<String, String>, &str)) {
    let backend = Backend::find_at(Path::new("/sys/fs/cgroup"));
    let mend = "run the worker as root, or in a delegated cgroup (systemd: Delegate=yes, or `systemd-run --user --scope -p Delegate=yes`)";
    let name = backend.describe();
    let (memory, cpu) = match &backend {
        Backend::V2(_) => (Ok(name.clone()), Ok(name)),
        Backend::V1 { cpu, .. } => (
            Ok(name.clone()),
            if cpu.is_some() {
                Ok(name)
            } else {
                Err("there is no writable cpu hierarchy".to_owned())
            },
        ),
        Backend::Absent(reason) => (Err(reason.clone()), Err(reason.clone())),
    };
    add(
        "memory limit",
        Need::Optional,
        memory
            .clone()
            .map_err(|reason| format!("no cgroup ({reason}): the limit holds for each process, not for all together")),
        mend,
    );
    add(
        "process limit",
        Need::Optional,
        memory.map_err(|reason| format!("no cgroup ({reason}): the limit is an rlimit of the sandbox's user")),
        mend,
    );
    add(
        "cpu limit",
        Need::Optional,
        cpu.map_err(|reason| format!("no cgroup ({reason}): `cpu_percent` is refused")),
        mend,
    );
}

/// Runs a check in a new user namespace with more namespaces, in which this user is mapped to the inside user.
fn trial(namespaces: i32, check: &dyn Fn() -> Result<String, String>) -> Result<String, String> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| error.to_string());
    let (go, release) = pipe()?;
    let (answer, answer_in) = pipe()?;
    match sys::clone_process(libc::CLONE_NEWUSER | namespaces).map_err(|error| format!("clone: {error}"))? {
        Side::Child => {
            drop((release, answer));
            if rustix::io::read(&go, &mut [0_u8; 1]) == Ok(1) {
                let said = match check() {
                    Ok(detail) => format!("+{detail}"),
                    Err(reason) => format!("-{reason}"),
                };
                let _ = rustix::io::write(&answer_in, said.as_bytes());
            }
            sys::exit_now(0)
        }
        Side::Parent { pid, pidfd: _ } => {
            drop((go, answer_in));
            let mapped = map_inside(pid);
            if mapped.is_ok() {
                let _ = rustix::io::write(&release, b"g");
            }
            drop(release);
            let mut said = String::new();
            let _ = fs::File::from(answer).read_to_string(&mut said);
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
            mapped.map_err(|error| format!("id mapping: {error}"))?;
            match said.split_at_checked(1) {
                Some(("+", detail)) => Ok(detail.to_owned()),
                Some((_, reason)) => Err(reason.to_owned()),
                None => Err("the trial process ended without an answer".to_owned()),
            }
        }
    }
}

fn map_inside(pid: i32) -> std::io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let inside = init::INSIDE_ID;
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    fs::write(format!("/proc/{pid}/uid_map"), format!("{inside} {uid} 1"))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("{inside} {gid} 1"))
}

/// A real launcher, a real sandbox, a real program.
fn whole() -> Result<String, String> {
    let workspace = std::env::temp_dir().join(format!("outwork-probe-{}", std::process::id()));
    fs::create_dir(&workspace).map_err(|error| format!("{}: {error}", workspace.display()))?;
    let outcome = whole_in(&workspace);
    let _ = fs::remove_dir(&workspace);
    outcome
}

fn whole_in(workspace: &Path) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let flags = SocketFlags::CLOEXEC;
    let (control, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(|error| error.to_string())?;
    let (socket, hands) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(|error| error.to_string())?;
    let mut launcher = Command::new("/proc/self/exe")
        .arg(HIDDEN)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(text)?;
    let outcome = converse(&control, socket, hands, workspace);
    drop(control);
    let _ = launcher.wait();
    outcome
}

fn converse(control: &OwnedFd, socket: OwnedFd, hands: OwnedFd, workspace: &Path) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    wire::send(
        control,
        &Boot {
            isolation: Isolation::Full,
            read_only_paths: Vec::new(),
            fenced: false,
        },
        &[],
    )
    .map_err(text)?;
    let hear = || {
        wire::receive::<Said>(control)
            .map_err(text)?
            .ok_or_else(|| "the launcher ended".to_owned())
    };
    let limits_by = match hear()?.0 {
        Said::Up { memory } => memory,
        Said::Down(error) => return Err(format!("step `{}`: {}", error.step, error.reason)),
        other => return Err(format!("unexpected answer {other:?}")),
    };
    let launch = Launch {
        build: None,
        id: 1,
        workspace: workspace.to_path_buf(),
        hostname: "probe".to_owned(),
        env: Vec::new(),
        limits: Limits::default(),
        image: RootImage::default(),
        mounts: Vec::new(),
        outputs: None,
        ca_pem: None,
        devices: Vec::new(),
        fenced: false,
        run: Some(vec![
            "/bin/bash".to_owned(),
            "-c".to_owned(),
            "test $$ = 1 && test $UID = 1000 && > /workspace/x && rm /workspace/x".to_owned(),
        ]),
    };
    wire::send(control, &launch, &[hands.as_fd()]).map_err(text)?;
    drop(hands);
    loop {
        match hear()?.0 {
            Said::Started { .. } => {}
            Said::Refused { error, .. } => return Err(format!("step `{}`: {}", error.step, error.reason)),
            Said::Exited { code: Some(0), .. } => return Ok(format!("limits by {limits_by}")),
            Said::Exited { code, signal, .. } => {
                let mut bytes = Vec::new();
                let _ = fs::File::from(socket).read_to_end(&mut bytes);
                if let Ok(Some((crate::hand::frame::FromHand::Failed(body), _))) =
                    crate::hand::frame::FromHand::decode(&bytes)
                {
                    return Err(format!("step `{}`: {}", body.step, body.reason));
                }
                return Err(format!(
                    "the program inside ended with code {code:?}, signal {signal:?}"
                ));
            }
            other => return Err(format!("unexpected answer {other:?}")),
        }
    }
}
