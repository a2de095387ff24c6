//! The process of the private server: its start, the network around it, and its own inside.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use super::network::{Network, furnish};
use super::server;
use super::stage::PART;
use crate::cli::task::{DemoHostCommand, DemoServerArgs};
use crate::exit::Exit;

/// The process of the private server. It ends when its standard input does.
pub(super) struct Host {
    pub(super) child: Child,
    pub(super) input: Option<ChildStdin>,
    pub(super) address: SocketAddr,
    pub(super) parcel: String,
}

/// This program, with nothing of this process's settings.
pub(super) fn program() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("could not find this program")?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OUTWORK_") {
            command.env_remove(name);
        }
    }
    // Ctrl-C in a terminal is for this process, which then ends the others in order.
    command.kill_on_drop(true).process_group(0);
    Ok(command)
}

impl Host {
    /// Starts it, with the network around it if there is to be one.
    pub(super) async fn start(network: &Network) -> Result<Self> {
        let mut command = program()?;
        command.args(["demo-host", "server", "--listen", &network.server.to_string()]);
        if let Some(pair) = &network.pair {
            command.args(["--network", &pair.inside, &pair.address_inside]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("could not start the private server")?;
        let mut input = child.stdin.take().context("the private server has no input")?;
        let output = child.stdout.take().context("the private server has no output")?;
        let mut lines = BufReader::new(output).lines();
        let told = async {
            if let Some(pair) = &network.pair {
                expect(lines.next_line().await?, "in a network of its own")?;
                pair.make(child.id().context("the private server is gone")?)?;
                input.write_all(b"go\n").await?;
            }
            let line = lines.next_line().await?.context("the private server said nothing")?;
            let told: Value = serde_json::from_str(&line)?;
            let address = told["listening"].as_str().context("no address")?.parse()?;
            let parcel = told["parcel"].as_str().context("no parcel")?.to_owned();
            anyhow::Ok((address, parcel))
        };
        let told = tokio::time::timeout(PART, told)
            .await
            .map_err(|_| anyhow!("it took too long"))
            .flatten();
        let (address, parcel) = match told {
            Ok(told) => told,
            Err(error) => {
                let _ = child.kill().await;
                let mut said = String::new();
                if let Some(mut output) = child.stderr.take() {
                    let _ = output.read_to_string(&mut said).await;
                }
                let said = said.trim().trim_start_matches("outwork: ");
                return Err(if said.is_empty() { error } else { anyhow!("{said}") });
            }
        };
        // Nothing more is read: it writes nothing more.
        drop(child.stderr.take());
        Ok(Self {
            child,
            input: Some(input),
            address,
            parcel,
        })
    }
}

fn expect(line: Option<String>, wanted: &str) -> Result<()> {
    match line {
        Some(line) if line == wanted => Ok(()),
        Some(line) => bail!("the private server said {line:?}"),
        None => bail!("the private server ended"),
    }
}

/// The inside of `outwork demo-host`: the network, and this process in it, are there already.
pub(super) async fn host(command: DemoHostCommand) -> Result<Exit> {
    let DemoHostCommand::Server(DemoServerArgs { listen, network }) = command else {
        bail!("this command is replaced before it gets here");
    };
    let mut input = BufReader::new(tokio::io::stdin());
    if let Some([interface, address]) = network.as_deref() {
        println!("in a network of its own");
        let mut line = String::new();
        if input.read_line(&mut line).await? == 0 {
            return Ok(Exit::Done);
        }
        furnish(interface, address, listen.ip())?;
    }
    let stop = CancellationToken::new();
    let end = stop.clone();
    // Whoever started this holds the other end of the input until it is over.
    tokio::spawn(async move {
        let mut rest = Vec::new();
        let _ = input.read_to_end(&mut rest).await;
        end.cancel();
    });
    let tell = |address: SocketAddr, orders: &server::Orders| {
        println!("{}", json!({ "listening": address, "parcel": orders.parcel() }));
    };
    server::serve(listen, stop, tell).await?;
    Ok(Exit::Done)
}
