//! `outwork tunnel run` as a process: what it opens, how it is told to go on and to end, what it says.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{Gateway, Office, Orders, called, connections, late_orders, plane, tunnel};
use crate::world::until;

/// A socket of a process, as `/proc/net` lists it.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    table: &'static str,
    /// Address and port in hexadecimal, as the kernel writes them.
    local: String,
    state: String,
}

impl Socket {
    fn port(&self) -> u16 {
        u16::from_str_radix(self.local.rsplit(':').next().unwrap(), 16).unwrap()
    }

    /// Whether strangers can begin something with it: `0A` is LISTEN; UDP knows no such state.
    fn listens(&self) -> bool {
        self.table.starts_with("tcp") && self.state == "0A"
    }
}

/// Every internet socket of a process: those of the tables whose inode is one of its descriptors.
fn sockets(pid: i32) -> Vec<Socket> {
    let inodes: HashSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6"] {
        // A kernel may be without some of them.
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")) else {
            continue;
        };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if inodes.contains(fields[9]) {
                found.push(Socket {
                    table,
                    local: fields[1].to_owned(),
                    state: fields[3].to_owned(),
                });
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_on_its_health_port_and_on_nothing_else() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let gateway = Gateway::connected(&world, &office).await;
    assert!(late_orders(&world, &office).await.unwrap().contains(&orders.parcel));
    let health: SocketAddr = gateway.health().parse().unwrap();
    let all = sockets(gateway.pid().as_raw_nonzero().get());
    let listening: Vec<&Socket> = all.iter().filter(|socket| socket.listens()).collect();
    assert_eq!(listening.len(), 1, "{all:?}");
    assert_eq!((listening[0].table, listening[0].port()), ("tcp", health.port()));
    assert_eq!(listening[0].local.split(':').next().unwrap(), "0100007F", "127.0.0.1");
    assert!(all.iter().all(|socket| !socket.table.starts_with("raw")), "{all:?}");
    // The sockets of QUIC are clients', on ports that the kernel chose. A stranger gets no answer from them.
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let range: Vec<u16> = range.split_whitespace().map(|port| port.parse().unwrap()).collect();
    let udp: Vec<&Socket> = all.iter().filter(|socket| socket.table.starts_with("udp")).collect();
    assert!(!udp.is_empty(), "QUIC is used where UDP passes: {all:?}");
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for socket in &udp {
        let port = socket.port();
        assert!((range[0]..=range[1]).contains(&port), "{socket:?}");
        // The beginning of a QUIC connection (long header, version 1), as a server would take it, and noise.
        for first in [0xc0u8, 0x40, 0x16, 0x00] {
            let mut datagram = [0x5au8; 1200];
            datagram[..6].copy_from_slice(&[first, 0, 0, 0, 1, 8]);
            stranger.send_to(&datagram, (Ipv4Addr::LOCALHOST, port)).await.unwrap();
        }
    }
    // It has taken them by the time that it served a call.
    assert!(late_orders(&world, &office).await.is_ok());
    let mut answer = [0; 1500];
    let answered = timeout(Duration::from_millis(200), stranger.recv_from(&mut answer)).await;
    assert!(answered.is_err(), "a stranger was answered: {answered:?}");

    // What it says there.
    let get = async |path: &str| {
        let response = reqwest::get(format!("http://{health}{path}")).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(get("/readyz").await, (200, "ready\n".into()));
    assert_eq!(get("/healthz").await.0, 200);
    assert!(get("/metrics").await.1.contains("outwork_gateway"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_a_changed_configuration_by_itself_and_when_told() {
    let (world, orders, others) = (plane().await, Orders::start().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let gateway = Gateway::connected(&world, &office).await;
    assert!(late_orders(&world, &office).await.unwrap().contains(&orders.parcel));
    office.configure(&orders.address, &others.address);
    gateway.says("the new configuration is in force", 0).await;
    assert!(late_orders(&world, &office).await.unwrap().contains(&others.parcel));
    // A file that is wrong changes nothing, and that is said; SIGHUP reads it again.
    office.configure("routes:", "ruotes:");
    gateway.says("the new configuration is refused", 0).await;
    let log = gateway.log();
    assert!(log.contains("ruotes"), "{log}");
    gateway.signal(Signal::HUP);
    gateway.says("the new configuration is refused", 1).await;
    assert!(late_orders(&world, &office).await.unwrap().contains(&others.parcel));
    office.configure("ruotes:", "routes:");
    gateway.says("the new configuration is in force", 1).await;
    // A rule for the route: the tool that does not only read is not offered any more.
    office.configure(
        &format!("\"http://{}\"", others.address),
        &format!("{{url: \"http://{}\", tools: {{deny: [late_orders]}}}}", others.address),
    );
    gateway.says("the new configuration is in force", 2).await;
    let events = called(&world, &office.url(), "late_orders", json!({ "customer": "Hartmann" })).await;
    assert!(
        !Value::from(events.clone()).to_string().contains(&others.parcel),
        "{events:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_its_exit_code_says_how() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let mut gateway = Gateway::connected(&world, &office).await;
    assert!(late_orders(&world, &office).await.is_ok());
    assert_eq!(gateway.drain().await.code(), Some(0));
    let log = gateway.log();
    assert!(log.contains("drained"), "{log}");
    connections(&world.api, &office.tunnel_id, 0).await;
    // A call that does not end within shutdown_timeout is cut, and the exit code says so.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    office.configure(&orders.address, &silent.local_addr().unwrap().to_string());
    let text = office.read("config.yaml");
    std::fs::write(office.file("config.yaml"), format!("shutdown_timeout: 100ms\n{text}")).unwrap();
    let mut gateway = Gateway::connected(&world, &office).await;
    let call = tokio::spawn({
        let (api, url) = (world.api.clone(), office.url());
        async move {
            let agent = json!({
                "name": "clerk", "model": crate::world::SCRIPT,
                "mcp_servers": [{ "type": "url", "name": "orders", "url": url }],
                "tools": [{ "type": "mcp_toolset", "mcp_server_name": "orders" }],
            });
            let agent = api.make("/v1/agents", agent).await;
            let environment = api.environment("self_hosted").await;
            let session = api.session(&agent, &environment).await;
            api.send_events(&session, &[crate::world::message("hello")]).await;
        }
    });
    let (held, _) = timeout(crate::world::SOON, silent.accept()).await.unwrap().unwrap();
    call.await.unwrap();
    assert_eq!(gateway.drain().await.code(), Some(1));
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_opens_no_new_connection_until_it_is_replaced() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let first = Gateway::connected(&world, &office).await;
    let path = format!("/v1/tunnels/{}/rotate_token", office.tunnel_id);
    world.api.post(&path, json!({ "reason": "a test" })).await.ok();
    // A gateway with the old token is refused and says what to do; the connections that were there stay.
    // Its folder is another one: a ledger and a health port belong to one gateway.
    let elsewhere = tempfile::tempdir().unwrap();
    for name in ["config.yaml", "tls.crt", "tls.key", "token", "ca.crt"] {
        std::fs::copy(office.file(name), elsewhere.path().join(name)).unwrap();
    }
    let second = Gateway::start(elsewhere.path()).await;
    second.says("the edge refuses this gateway", 0).await;
    assert!(second.log().contains("outwork tunnel setup"), "{}", second.log());
    assert_eq!(connections(&world.api, &office.tunnel_id, 2).await.len(), 2);
    assert!(late_orders(&world, &office).await.unwrap().contains(&orders.parcel));
    let ready = reqwest::get(format!("http://{}/readyz", second.health()))
        .await
        .unwrap();
    assert_eq!(ready.status(), 503);
    // The new token in its file is taken over by itself.
    office.tunnel(&world, &["setup"]).await.ok();
    std::fs::copy(office.file("token"), elsewhere.path().join("token")).unwrap();
    connections(&world.api, &office.tunnel_id, 4).await;
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_starting_is_said() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let run = async |change: &dyn Fn(String) -> String, named: &[&str]| {
        let text = office.read("config.yaml");
        std::fs::write(office.file("config.yaml"), change(text.clone())).unwrap();
        office.tunnel(&world, &["run"]).await.refused(named);
        std::fs::write(office.file("config.yaml"), text).unwrap();
    };
    run(
        &|text| text.replace("tunnel_id:", "tunel_id:"),
        &["config.yaml", "tunel_id"],
    )
    .await;
    run(
        &|text| {
            text.replace("edge:", "# edge:")
                .replace("  addresses", "#")
                .replace("  fingerprint", "#")
        },
        &["edge"],
    )
    .await;
    run(&|text| text.replace("token_file: \"token\"", ""), &["token_file"]).await;
    run(&|text| text.replace("tls.crt", "tls.pem"), &["tls.pem"]).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    run(
        &|text| text.replace("127.0.0.1:0", &address),
        &["health.listen_addr", &address],
    )
    .await;
    tunnel(world.server.base_url(), &["run", "--folder", "/nonexistent"])
        .await
        .refused(&["outwork tunnel setup"]);
    // Another edge than the pinned one is not taken, and the gateway says so while it tries.
    let text = office.read("config.yaml");
    let at = text.find("fingerprint: \"").unwrap() + 14;
    let wrong = format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..]);
    std::fs::write(office.file("config.yaml"), wrong).unwrap();
    let gateway = Gateway::start(&office.path()).await;
    until("it says that the edge is not the one", crate::world::SOON, || async {
        let log = gateway.log();
        (log.contains("edge.fingerprint") && log.contains("certificate")).then_some(())
    })
    .await;
    assert_eq!(connections(&world.api, &office.tunnel_id, 0).await.len(), 0);
}
