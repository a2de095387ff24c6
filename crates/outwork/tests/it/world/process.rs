//! Processes of the built binary: started, watched, killed.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::{NamedTempFile, TempDir};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{ADMIN_KEY, Api, SOON};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_outwork");

/// How a server is started.
#[derive(Clone)]
pub struct ServerOptions {
    /// `serve` or `up`.
    pub command: &'static str,
    pub flags: Vec<String>,
    pub variables: Vec<(String, String)>,
    /// The folder of an earlier server, to go on in.
    pub data_dir: Option<PathBuf>,
    /// The port; a free one if 0.
    pub port: u16,
    /// A program that is given the command line instead.
    pub wrapper: Vec<String>,
    pub admin_key: Option<String>,
    /// The settings file, which is there as long as somebody may start with it.
    pub settings: Option<Arc<NamedTempFile>>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            command: "serve",
            flags: Vec::new(),
            variables: Vec::new(),
            data_dir: None,
            port: 0,
            wrapper: Vec::new(),
            admin_key: Some(ADMIN_KEY.to_owned()),
            settings: None,
        }
    }
}

impl ServerOptions {
    /// With a model provider.
    pub fn model(mut self, base_url: &str, key: &str) -> Self {
        self.variables.push(("OUTWORK_MODEL_BASE_URL".into(), base_url.into()));
        self.variables.push(("OUTWORK_MODEL_API_KEY".into(), key.into()));
        self
    }

    /// With more flags.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|f| (*f).to_owned()));
        self
    }

    /// With a settings file of this text.
    pub fn settings(mut self, text: &str) -> Self {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        self.settings = Some(Arc::new(file));
        self.flags(&["--config", &path])
    }

    /// With a server and a local worker in one process.
    pub fn up(mut self) -> Self {
        self.command = "up";
        self
    }

    fn build(&self, data_dir: &Path) -> Command {
        let mut line = self.wrapper.clone();
        line.push(BINARY.to_owned());
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .arg(self.command)
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("--data-dir")
            .arg(data_dir)
            .args(&self.flags);
        clean(&mut command);
        if let Some(key) = &self.admin_key {
            command.env("OUTWORK_API_KEY", key);
        }
        command.envs(self.variables.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Runs a server that is expected to end by itself: its status and what it wrote to standard error.
    pub async fn refused(&self, data_dir: &Path) -> (ExitStatus, String) {
        let child = self
            .build(data_dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = timeout(SOON, child.wait_with_output())
            .await
            .expect("it went on running")
            .unwrap();
        assert!(
            output.stdout.is_empty(),
            "it announced itself: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Nothing of this process's own settings reaches a child.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars() {
        if name.starts_with("OUTWORK_") || name.starts_with("ANTHROPIC_") || name.ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
}

/// A running server. Dropping it kills it.
pub struct Server {
    options: ServerOptions,
    child: Child,
    base_url: String,
    /// What it printed before it was ready.
    pub printed: Vec<String>,
    log: Arc<Mutex<String>>,
    folder: Option<TempDir>,
    data_dir: PathBuf,
}

impl Server {
    /// Starts a server, in a fresh folder unless the options name one, and waits until it is ready.
    pub async fn start(options: ServerOptions) -> Self {
        let folder = options.data_dir.is_none().then(|| TempDir::new().unwrap());
        let data_dir = match (&options.data_dir, &folder) {
            (Some(dir), _) => dir.clone(),
            (None, Some(folder)) => folder.path().join("data"),
            (None, None) => unreachable!("one of both is there"),
        };
        let log = Arc::default();
        let (child, printed) = launch(&options, &data_dir, &log).await;
        let base_url = url_in(&printed);
        let mut options = options;
        options.port = base_url
            .rsplit(':')
            .next()
            .and_then(|p| p.parse().ok())
            .expect(&base_url);
        Self {
            options,
            child,
            base_url,
            printed,
            log,
            folder,
            data_dir,
        }
    }

    /// A client with the admin key.
    pub fn api(&self) -> Api {
        Api::new(&self.base_url, self.options.admin_key.as_deref().unwrap_or(ADMIN_KEY))
    }

    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().expect("it runs").try_into().unwrap()).unwrap()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again, on the same port and folder.
    pub async fn restart(&mut self) {
        let (child, printed) = launch(&self.options, &self.data_dir, &self.log).await;
        assert_eq!(url_in(&printed), self.base_url);
        self.child = child;
        self.printed = printed;
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(SOON, self.child.wait()).await.expect("it did not end").unwrap()
    }

    /// Keeps the folder beyond this server.
    pub fn into_folder(mut self) -> (Option<TempDir>, PathBuf) {
        (self.folder.take(), self.data_dir.clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        show_log("server", &self.log);
    }
}

async fn launch(options: &ServerOptions, data_dir: &Path, log: &Arc<Mutex<String>>) -> (Child, Vec<String>) {
    let mut child = options
        .build(data_dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    keep_log(&mut child, log);
    let mut printed = Vec::new();
    loop {
        let line = timeout(SOON, lines.next_line()).await;
        match line {
            Ok(Ok(Some(line))) => {
                let ready = line.contains("listening on");
                printed.push(line);
                if ready {
                    break;
                }
            }
            other => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                panic!("the server did not start ({other:?}): {}", log.lock().unwrap());
            }
        }
    }
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, printed)
}

fn url_in(printed: &[String]) -> String {
    let line = printed.last().unwrap();
    line.rsplit(' ').next().unwrap().to_owned()
}

pub fn keep_log(child: &mut Child, log: &Arc<Mutex<String>>) {
    let mut stderr = child.stderr.take().unwrap();
    let log = log.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
            log.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
}

pub fn show_log(what: &str, log: &Mutex<String>) {
    if std::thread::panicking()
        && let Ok(log) = log.lock()
    {
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        eprintln!("the end of the log of the {what}:\n{}", tail.join("\n"));
    }
}

/// Whether tools are kept apart from the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    Full,
    None,
}

/// How a worker is started.
#[derive(Clone)]
pub struct WorkerOptions {
    pub base_url: String,
    pub environment: String,
    pub key: String,
    pub isolation: Isolation,
    pub concurrency: usize,
    pub flags: Vec<String>,
}

/// A running worker. Dropping it kills it.
pub struct Worker {
    options: WorkerOptions,
    child: Child,
    log: Arc<Mutex<String>>,
    folder: TempDir,
}

impl Worker {
    /// Starts a worker with a folder of its own.
    pub fn start(options: WorkerOptions) -> Self {
        let folder = TempDir::new().unwrap();
        let log = Arc::default();
        let child = spawn_worker(&options, folder.path(), &log);
        Self {
            options,
            child,
            log,
            folder,
        }
    }

    /// Starts it again in the same folder.
    pub fn restart(&mut self) {
        self.child = spawn_worker(&self.options, self.folder.path(), &self.log);
    }

    /// The folder that sessions work in.
    pub fn workdir(&self) -> &Path {
        self.folder.path()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends SIGTERM and waits until it has ended.
    pub async fn drain(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().expect("it runs").try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        timeout(SOON, self.child.wait())
            .await
            .expect("the worker did not end")
            .unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        show_log("worker", &self.log);
    }
}

fn spawn_worker(options: &WorkerOptions, workdir: &Path, log: &Arc<Mutex<String>>) -> Child {
    let mut command = Command::new(BINARY);
    clean(&mut command);
    command
        .arg("worker")
        .args(["--environment-id", &options.environment])
        .args(["--base-url", &options.base_url])
        .args(["--concurrency", &options.concurrency.to_string()])
        .args([
            "--isolation",
            if options.isolation == Isolation::Full {
                "full"
            } else {
                "none"
            },
        ])
        .arg("--workdir")
        .arg(workdir)
        .args(&options.flags)
        .env("OUTWORK_ENVIRONMENT_KEY", &options.key)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    keep_log(&mut child, log);
    child
}
