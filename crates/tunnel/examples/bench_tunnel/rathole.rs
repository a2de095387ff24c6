//! rathole with Noise: its server and its client, each a process.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Failure;
use crate::load::trip;
use crate::ours::Folder;
use crate::way::{Ports, Process, dial};

/// Both ends.
pub(crate) struct Rathole {
    program: PathBuf,
    /// Where its server takes callers.
    pub(crate) ports: Ports,
    pub(crate) server: Option<Process>,
    pub(crate) client: Process,
    folder: Folder,
}

impl Rathole {
    /// Starts both and waits until a call passes.
    pub(crate) async fn start(program: &Path, origin: Ports) -> Result<Self, Failure> {
        let control = free()?;
        Self::through(program, origin, control, control).await
    }

    /// The same, with the client dialling another address than the server's.
    pub(crate) async fn through(
        program: &Path,
        origin: Ports,
        control: SocketAddr,
        dialled: SocketAddr,
    ) -> Result<Self, Failure> {
        let folder = Folder::fresh(&format!("rathole-{}", control.port()))?;
        let output = Command::new(program).arg("--genkey").output()?;
        let text = String::from_utf8(output.stdout)?;
        let keys: Vec<&str> = text.lines().filter(|line| line.ends_with('=')).collect();
        let [private, public] = keys[..] else {
            return Err("rathole --genkey did not print two keys".into());
        };
        let ports = Ports {
            echo: free()?,
            sink: free()?,
        };
        let token = "0123456789abcdef";
        let server = format!(
            "[server]\nbind_addr = '{control}'\ndefault_token = '{token}'\n[server.transport]\ntype = 'noise'\n\
             [server.transport.noise]\nlocal_private_key = '{private}'\n\
             [server.services.echo]\nbind_addr = '{}'\n[server.services.sink]\nbind_addr = '{}'\n",
            ports.echo, ports.sink
        );
        let client = format!(
            "[client]\nremote_addr = '{dialled}'\ndefault_token = '{token}'\n[client.transport]\ntype = 'noise'\n\
             [client.transport.noise]\nremote_public_key = '{public}'\n\
             [client.services.echo]\nlocal_addr = '{}'\n[client.services.sink]\nlocal_addr = '{}'\n",
            origin.echo, origin.sink
        );
        std::fs::write(folder.0.join("server.toml"), server)?;
        std::fs::write(folder.0.join("client.toml"), client)?;
        let server = run(program, &folder.0, "server")?;
        let client = run(program, &folder.0, "client")?;
        let mut rathole = Self {
            program: program.to_owned(),
            ports,
            server: Some(server),
            client,
            folder,
        };
        rathole.ready(Duration::from_secs(20)).await?;
        Ok(rathole)
    }

    /// Waits until a call passes.
    pub(crate) async fn ready(&mut self, limit: Duration) -> Result<(), Failure> {
        let passes = async {
            loop {
                if let Ok(mut stream) = dial(self.ports.echo).await
                    && matches!(
                        tokio::time::timeout(Duration::from_secs(1), trip(&mut stream)).await,
                        Ok(Ok(()))
                    )
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(limit, passes)
            .await
            .map_err(|_| "no call passes through rathole".into())
    }

    /// Starts the server again.
    pub(crate) fn revive(&mut self) -> Result<(), Failure> {
        self.server = Some(run(&self.program, &self.folder.0, "server")?);
        Ok(())
    }

    /// What the client wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.0.join("client.log")).unwrap_or_default()
    }
}

fn run(program: &Path, folder: &Path, role: &str) -> Result<Process, Failure> {
    let log = std::fs::File::create(folder.join(format!("{role}.log")))?;
    let mut command = Command::new(program);
    command
        .arg(format!("--{role}"))
        .arg(folder.join(format!("{role}.toml")))
        .stdout(log)
        .stderr(Stdio::null());
    Process::start(&mut command)
}

/// A port of loopback that nothing listens on.
pub(crate) fn free() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
