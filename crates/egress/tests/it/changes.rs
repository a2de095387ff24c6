//! Policies that change while connections are open, and the end of the boundary.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use outwork_egress::policy::{Policy, check, suggest};
use outwork_egress::{Networking, narrower};
use outwork_ledger::Decision;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{answer, get2, handshake2, in_time, rest, send2};
use crate::world::{POLICY, World, policy, until};

const GET: &str = "GET /ok HTTP/1.1\r\nHost: inspected.example\r\n\r\n";

#[tokio::test]
async fn a_new_policy_holds_from_the_next_request_on() {
    let world = World::new().await;
    world.lookup("inspected.example.").await;
    let mut first = world
        .tls("93.184.215.10:443", "inspected.example", &["http/1.1"])
        .await
        .unwrap();
    first.write_all(GET.as_bytes()).await.unwrap();
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));
    let stream = world
        .tls("93.184.215.10:443", "inspected.example", &["h2"])
        .await
        .unwrap();
    let mut second = handshake2(stream).await.unwrap();
    assert_eq!(
        send2(&mut second, get2("https://inspected.example/ok"))
            .await
            .unwrap()
            .head
            .status(),
        200
    );
    world.handle.set_policy(Policy::nothing());
    first.write_all(GET.as_bytes()).await.unwrap();
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 403"));
    assert_eq!(
        send2(&mut second, get2("https://inspected.example/ok"))
            .await
            .unwrap()
            .head
            .status(),
        403
    );
    assert!(world.lookup("inspected.example.").await.answers.is_empty());
    world.handle.set_policy(policy(POLICY));
    first.write_all(GET.as_bytes()).await.unwrap();
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_is_passed_through_and_no_longer_allowed_is_cut() {
    let world = World::new().await;
    world.lookup("db.example.").await;
    world.lookup("passed.example.").await;
    let mut database = world.dial("93.184.215.30:5432").await;
    database.write_all(b"\x01hello").await.unwrap();
    in_time(database.read_exact(&mut [0; 6])).await.unwrap();
    let mut passed = world
        .tls("93.184.215.11:443", "passed.example", &["http/1.1"])
        .await
        .unwrap();
    // The database goes, the other host is to be opened from now on.
    let text = "[[allow]]\nhost = \"passed.example\"\npaths = \"/ok\"\n";
    world.handle.set_policy(policy(text));
    assert!(rest(&mut database).await.contains("reset"));
    let mut buffer = [0; 16];
    let read = in_time(passed.read(&mut buffer)).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    until("both are counted", || world.handle.stats().cut == 2).await;
    let ends = world.recorded(Decision::Allowed);
    assert!(
        ends.iter()
            .any(|record| record.reason.as_deref() == Some("cut: the policy changed"))
    );
}

#[tokio::test]
async fn a_change_leaves_what_is_still_allowed_alone() {
    let world = World::new().await;
    world.lookup("db.example.").await;
    let mut database = world.dial("93.184.215.30:5432").await;
    for n in 0..20_u8 {
        world.handle.set_policy(policy(POLICY));
        database.write_all(&[1, n]).await.unwrap();
        let mut back = [0; 2];
        in_time(database.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, [1, n]);
    }
}

#[tokio::test]
async fn a_websocket_is_cut_too() {
    let world = World::new().await;
    world.lookup("inspected.example.").await;
    let mut stream = world
        .tls("93.184.215.10:443", "inspected.example", &["http/1.1"])
        .await
        .unwrap();
    let head = "GET /ws HTTP/1.1\r\nHost: inspected.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 101"));
    stream.write_all(b"x").await.unwrap();
    in_time(stream.read_exact(&mut [0; 1])).await.unwrap();
    world.handle.set_policy(Policy::nothing());
    let mut buffer = [0; 16];
    assert!(!matches!(in_time(stream.read(&mut buffer)).await, Ok(1..)));
}

#[tokio::test]
async fn without_records_nothing_crosses_and_with_them_it_does_again() {
    let world = World::new().await;
    for name in ["inspected.example.", "db.example."] {
        world.lookup(name).await;
    }
    let mut stream = world
        .tls("93.184.215.10:443", "inspected.example", &["http/1.1"])
        .await
        .unwrap();
    world.notes.failing.store(true, SeqCst);
    stream.write_all(GET.as_bytes()).await.unwrap();
    let refused = answer(&mut stream).await;
    assert!(
        refused.starts_with("HTTP/1.1 503") && refused.contains("could not be kept"),
        "{refused}"
    );
    let mut database = world.dial("93.184.215.30:5432").await;
    database.write_all(b"\x01x").await.unwrap();
    rest(&mut database).await;
    assert!(world.lookup("a.wild.example.").await.answers.is_empty());
    assert!(world.seen.all().is_empty() && !world.zone.was_asked("wild"));
    assert!(world.handle.stats().unrecorded >= 3);
    world.notes.failing.store(false, SeqCst);
    stream.write_all(GET.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_end_cuts_everything() {
    let world = Arc::new(World::new().await);
    world.lookup("db.example.").await;
    world.lookup("inspected.example.").await;
    let mut database = world.dial("93.184.215.30:5432").await;
    database.write_all(b"\x01x").await.unwrap();
    in_time(database.read_exact(&mut [0; 2])).await.unwrap();
    let mut opened = world
        .tls("93.184.215.10:443", "inspected.example", &["http/1.1"])
        .await
        .unwrap();
    until("both are open", || world.handle.stats().open == 2).await;
    assert!(world.handle.shutdown(Duration::from_secs(5)).await);
    rest(&mut database).await;
    assert!(!matches!(in_time(opened.read(&mut [0; 16])).await, Ok(1..)));
    assert_eq!(world.handle.stats().open, 0);
    let gone = tokio::net::TcpStream::connect(world.tcp).await;
    assert!(gone.is_err(), "the listener is closed");
}

#[test]
fn the_networks_of_environments() {
    let limited = |json: &str| -> Networking { serde_json::from_str(json).unwrap() };
    let network = limited(r#"{"type":"limited","allowed_hosts":["api.example.com","*.b.example","c.example:8443"]}"#);
    let policy = Policy::from_networking("environment", &network, &[]).unwrap();
    let says = |policy: &Policy, host: &str, port| {
        let explained = check(policy, host, port, None).unwrap();
        (explained.allowed(), explained.rule().to_owned())
    };
    assert_eq!(
        says(&policy, "api.example.com", 443),
        (true, "environment/allowed_hosts[0]".to_owned())
    );
    assert_eq!(
        says(&policy, "x.b.example", 80),
        (true, "environment/allowed_hosts[1]".to_owned())
    );
    assert_eq!(
        says(&policy, "c.example", 8443),
        (true, "environment/allowed_hosts[2]".to_owned())
    );
    assert_eq!(
        says(&policy, "c.example", 443),
        (false, "environment/allowed_hosts[2]".to_owned())
    );
    assert_eq!(
        says(&policy, "pypi.org", 443),
        (false, "environment/default".to_owned())
    );
    let empty = Policy::from_networking("environment", &limited(r#"{"type":"limited"}"#), &[]).unwrap();
    assert!(!says(&empty, "api.example.com", 443).0 && !says(&empty, "1.1.1.1", 443).0);
    let packages = limited(r#"{"type":"limited","allow_package_managers":true,"allow_mcp_servers":true}"#);
    let hosts = [("mcp.example.com".parse().unwrap(), 8000)];
    let packages = Policy::from_networking("environment", &packages, &hosts).unwrap();
    for (host, port) in [
        ("pypi.org", 443),
        ("deb.debian.org", 80),
        ("static.crates.io", 443),
        ("mcp.example.com", 8000),
    ] {
        assert!(says(&packages, host, port).0, "{host}");
    }
    let open = Policy::from_networking("environment", &Networking::Unrestricted, &[]).unwrap();
    for (host, port, allowed) in [
        ("anything.example", 22, true),
        ("1.1.1.1", 9, true),
        ("10.0.0.1", 443, false),
        ("169.254.169.254", 80, false),
        ("127.0.0.1", 80, false),
        ("[::ffff:10.0.0.1]", 80, false),
    ] {
        assert_eq!(says(&open, host, port).0, allowed, "{host}");
    }
    let both = narrower(policy.clone(), packages.clone());
    assert!(!says(&both, "api.example.com", 443).0 && !says(&both, "pypi.org", 443).0);
    let both = narrower(policy.clone(), open.clone());
    assert!(says(&both, "api.example.com", 443).0);
    assert_eq!(says(&both, "evil.example", 443).1, "environment/default");
    assert!(!says(&narrower(open, Policy::nothing()), "api.example.com", 443).0);
    for (wrong, part) in [
        ("*", "unrestricted"),
        ("1.2.3.4", "use `cidr`"),
        ("https://a.b", "scheme"),
        ("a.b:x", "not a port"),
    ] {
        let network = Networking::Limited {
            allowed_hosts: vec![wrong.to_owned()],
            allow_package_managers: false,
            allow_mcp_servers: false,
        };
        let error = Policy::from_networking("environment", &network, &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("allowed_hosts[0]") && error.contains(part),
            "{wrong}: {error}"
        );
    }
    assert!(serde_json::from_str::<Networking>(r#"{"type":"limited","hosts":[]}"#).is_err());
}

#[test]
fn explanations_and_hashes() {
    let policy_ = policy(POLICY);
    let explained = check(&policy_, "inspected.example", 443, Some(("GET", "/admin?x=1"))).unwrap();
    assert!(!explained.allowed());
    assert_eq!(explained.rule(), "test/inspected");
    let text = explained.to_string();
    assert!(
        text.contains("connection: allowed by test/inspected (TLS is opened)"),
        "{text}"
    );
    assert!(
        text.contains("request: refused by test/inspected:") && text.contains("path"),
        "{text}"
    );
    assert!(
        check(&policy_, "inspected.example", 443, Some(("GET", "/ok")))
            .unwrap()
            .allowed()
    );
    assert!(check(&policy_, "not a host", 443, None).is_err());
    assert_eq!(policy_.hash(), policy(POLICY).hash());
    assert_ne!(policy_.hash(), policy("").hash());
    assert_ne!(policy("inspect = true").hash(), policy("").hash());
}

#[tokio::test]
async fn suggestions_allow_what_was_refused() {
    let world = World::new().await;
    world.lookup("inspected.example.").await;
    world.lookup("new.example.").await;
    let request = "GET /admin/a*b HTTP/1.1\r\nHost: inspected.example\r\n\r\n";
    world.secure("93.184.215.10:443", "inspected.example", request).await;
    let mut stream = world.dial("93.184.215.66:5000").await;
    stream.write_all(b"\x01x").await.unwrap();
    rest(&mut stream).await;
    world
        .plain("169.254.169.254:80", b"GET / HTTP/1.0\r\nHost: 169.254.169.254\r\n\r\n")
        .await;
    let document = suggest(&world.handle.refusals());
    let suggested = Policy::new("suggested", &document, &[]);
    let text = document.to_toml();
    assert_eq!(
        outwork_egress::Document::from_toml("s", &text).unwrap(),
        document,
        "{text}"
    );
    assert!(check(&suggested, "new.example", 443, None).unwrap().allowed(), "{text}");
    assert!(
        check(&suggested, "inspected.example", 443, Some(("GET", "/admin/a*b")))
            .unwrap()
            .allowed(),
        "{text}"
    );
    assert!(
        !check(&suggested, "inspected.example", 443, Some(("GET", "/admin/axb")))
            .unwrap()
            .allowed(),
        "{text}"
    );
    assert!(
        check(&suggested, "93.184.215.66", 5000, None).unwrap().allowed(),
        "{text}"
    );
    assert!(!text.contains("169.254"), "{text}");
}
