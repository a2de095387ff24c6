//! What comes out of a fence, and what does not.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use outwork_sandbox::{
    Fence, Isolation, Launcher, LauncherOptions, SandboxError, SandboxOptions, original_destination,
};

use crate::{Setting, bash, python};

/// Accepts one connection, says its destination to it, and returns both.
fn greet(listener: &TcpListener) -> (SocketAddr, TcpStream) {
    let (mut stream, _) = listener.accept().expect("a connection");
    let to = original_destination(&stream).expect("its destination");
    stream
        .write_all(format!("you asked for {to}\n").as_bytes())
        .expect("a greeting");
    stream.shutdown(Shutdown::Write).expect("its end");
    (to, stream)
}

/// Greets until the listener goes; the destinations.
fn greeter(fence: &Fence) -> mpsc::Receiver<SocketAddr> {
    let listener = fence.tcp.try_clone().expect("a handle");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let Ok(to) = original_destination(&stream) else { return };
            let _ = stream.write_all(format!("you asked for {to}\n").as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            if sender.send(to).is_err() {
                return;
            }
        }
    });
    receiver
}

pub(crate) async fn tcp_arrives_with_its_destination(setting: &Setting) {
    let (sandbox, fence) = setting.fenced().await;
    let accepting = tokio::task::spawn_blocking(move || greet(&fence.tcp).0);
    let said = bash(&sandbox, "exec 5<>/dev/tcp/203.0.113.9/443; cat <&5").await;
    assert_eq!(said, "you asked for 203.0.113.9:443");
    assert_eq!(accepting.await.expect("accepted").to_string(), "203.0.113.9:443");
}

pub(crate) async fn ipv6_arrives_too(setting: &Setting) {
    let (sandbox, fence) = setting.fenced().await;
    let accepting = tokio::task::spawn_blocking(move || {
        let first = greet(&fence.tcp).0;
        let mut bytes = [0; 64];
        let (length, from) = fence.dns.recv_from(&mut bytes).expect("a question");
        fence.dns.send_to(b"answer", from).expect("answered");
        (first, bytes.get(..length).map(<[u8]>::to_vec))
    });
    let said = python(
        &sandbox,
        "s = socket.create_connection(('2001:db8::9', 8443)); print(s.recv(99).decode().strip())\n\
         u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.connect(('2001:db8::53', 53)); u.send(b'question'); print(u.recv(99).decode())",
    )
    .await;
    assert_eq!(said, "you asked for [2001:db8::9]:8443\nanswer");
    let (to, question) = accepting.await.expect("accepted");
    assert_eq!(to.to_string(), "[2001:db8::9]:8443");
    assert_eq!(question.as_deref(), Some(&b"question"[..]));
}

pub(crate) async fn questions_for_names_arrive(setting: &Setting) {
    let (sandbox, fence) = setting.fenced().await;
    let answering = tokio::task::spawn_blocking(move || {
        let mut asked = Vec::new();
        for _ in 0..3 {
            let mut bytes = [0; 512];
            let (length, from) = fence.dns.recv_from(&mut bytes).expect("a question");
            let question = bytes.get(..length).unwrap_or_default();
            asked.push(name_in(question));
            fence.dns.send_to(&answer(question), from).expect("answered");
        }
        asked
    });
    // One through the system's resolver, whose server stands in /etc/resolv.conf, and one to a server of one's own.
    let said = bash(&sandbox, "getent ahostsv4 one.example.com | head -1 | cut -d' ' -f1").await;
    assert_eq!(said, "198.51.100.7");
    let own = "q = b'\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0\\x03two\\x07example\\0\\0\\1\\0\\1'\n\
         for server in ('8.8.8.8', '1.1.1.1'):\n  u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(20)\n  u.sendto(q, (server, 53)); a, f = u.recvfrom(512); print(f[0], socket.inet_ntoa(a[-4:]))";
    assert_eq!(
        python(&sandbox, own).await,
        "8.8.8.8 198.51.100.7\n1.1.1.1 198.51.100.7"
    );
    let asked = answering.await.expect("answered");
    assert_eq!(asked, ["one.example.com", "two.example", "two.example"]);
}

/// The name in a question.
fn name_in(question: &[u8]) -> String {
    let mut labels = Vec::new();
    let mut at = 12;
    while let Some(length @ 1..) = question.get(at).map(|length| usize::from(*length)) {
        labels.push(String::from_utf8_lossy(question.get(at + 1..=at + length).unwrap_or_default()).into_owned());
        at += length + 1;
    }
    labels.join(".")
}

/// The question with one address as its answer.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    for (at, value) in [(2, 0x81), (3, 0x80), (7, 1), (9, 0), (11, 0)] {
        if let Some(byte) = answer.get_mut(at) {
            *byte = value;
        }
    }
    // Without whatever followed the question.
    let end = 12 + name_in(question).len() + 2 + 4;
    answer.truncate(end);
    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7]);
    answer
}

pub(crate) async fn every_client_gets_through(setting: &Setting) {
    let (sandbox, fence) = setting.fenced().await;
    let listener = fence.tcp.try_clone().expect("a handle");
    let server = std::thread::spawn(move || {
        let mut destinations = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            destinations.push(original_destination(&stream).expect("its destination"));
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes");
            if destinations.last().is_some_and(|to| to.port() == 9) {
                return destinations;
            }
        }
        destinations
    });
    let mut expected = Vec::new();
    for (program, command) in [
        ("/usr/bin/curl", "curl -s http://198.51.100.1:81/"),
        (
            "/usr/bin/node",
            "node -e \"require('http').get('http://198.51.100.2:82/', r => r.on('data', d => process.stdout.write(d)))\"",
        ),
        (
            "/usr/bin/java",
            "cat > /tmp/G.java <<'END'\npublic class G { public static void main(String[] a) throws Exception { System.out.print(new String(new java.net.URL(\"http://198.51.100.3:83/\").openStream().readAllBytes())); } }\nEND\njava /tmp/G.java 2>/tmp/err || cat /tmp/err",
        ),
        (
            "/usr/bin/python3",
            "/usr/bin/python3 -c \"import urllib.request as u; print(u.urlopen('http://198.51.100.4:84/').read().decode())\"",
        ),
        (
            "/usr/bin/perl",
            "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(\"198.51.100.5:85\"); print $s \"GET / HTTP/1.0\\r\\n\\r\\n\"; @l = <$s>; print $l[-1]'",
        ),
    ] {
        if Path::new(program).exists() {
            let said = bash(&sandbox, command).await;
            assert_eq!(said, "yes", "{program}");
            expected.push(program);
        } else {
            println!("    {program} is not installed here");
        }
    }
    bash(&sandbox, "echo > /dev/tcp/198.51.100.9/9").await;
    let destinations = server.join().expect("the server ends");
    assert_eq!(destinations.len(), expected.len() + 1, "{destinations:?}");
    assert!(expected.len() > 1, "some clients are installed");
}

pub(crate) async fn one_source_port_to_two_places(setting: &Setting) {
    let (sandbox, fence) = setting.fenced().await;
    let _greeted = greeter(&fence);
    // The same source address and port to two places at once: to the listener both are the same connection but for
    // the source port that the kernel then changes.
    let said = python(
        &sandbox,
        "o = []\nfor to in ('203.0.113.1', '203.0.113.2', '203.0.113.3'):\n  s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.settimeout(20)\n  s.bind(('192.0.0.8', 40000)); s.connect((to, 443)); o.append(s)\nfor s in o: print(s.recv(99).decode().strip(), s.getsockname()[1])",
    )
    .await;
    assert_eq!(
        said,
        "you asked for 203.0.113.1:443 40000\nyou asked for 203.0.113.2:443 40000\nyou asked for 203.0.113.3:443 40000"
    );
}

pub(crate) async fn loopback_stays_inside(setting: &Setting) {
    let (sandbox, fence) = setting.fenced().await;
    fence.tcp.set_nonblocking(true).expect("non-blocking");
    fence.dns.set_nonblocking(true).expect("non-blocking");
    let said = python(
        &sandbox,
        "for host in ('127.0.0.1', '127.9.9.9', '::1', '192.0.0.8', 'localhost'):\n  family = socket.AF_INET6 if ':' in host else socket.AF_INET\n  s = socket.create_server((host, 0), family=family); c = socket.create_connection(s.getsockname()[:2]); s.accept()[0].send(b'inside'); print(c.recv(9).decode())\n\
         a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(('127.0.0.1', 0)); b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b.sendto(b'datagram', a.getsockname()); print(a.recv(9).decode())",
    )
    .await;
    assert_eq!(said, "inside\ninside\ninside\ninside\ninside\ndatagram");
    nothing_came(&fence);
}

pub(crate) fn nothing_came(fence: &Fence) {
    fence.tcp.set_nonblocking(true).expect("non-blocking");
    fence.dns.set_nonblocking(true).expect("non-blocking");
    let accepted = fence.tcp.accept().map(|(stream, _)| original_destination(&stream));
    assert!(
        matches!(&accepted, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{accepted:?}"
    );
    let received = fence.dns.recv_from(&mut [0; 64]);
    assert!(
        matches!(&received, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{received:?}"
    );
}

pub(crate) async fn other_traffic_goes_nowhere(setting: &Setting) {
    let (sandbox, fence) = setting.fenced().await;
    // A receiver on the wildcard address would get what the routes loop back to this sandbox.
    let said = python(
        &sandbox,
        "r = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); r.bind(('::', 443)) if False else r.bind(('::', 4430)); r.setblocking(False)\n\
         for host, port in (('203.0.113.9', 4430), ('203.0.113.9', 123), ('2001:db8::1', 4430), ('8.8.8.8', 853), ('224.0.0.251', 5353), ('255.255.255.255', 4430), ('ff02::fb', 5353), ('169.254.169.254', 80)):\n\
         \x20 s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)\n\
         \x20 if host == '255.255.255.255': s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n\
         \x20 try: print(host, 'SENT', s.sendto(b'out', (host, port)))\n\
         \x20 except OSError as e: print(host, errno.errorcode[e.errno])\n\
         try: print('RECEIVED', r.recv(9))\n\
         except BlockingIOError: print('nothing came back')",
    )
    .await;
    for line in said.lines() {
        assert!(!line.contains("SENT") && !line.contains("RECEIVED"), "{said}");
    }
    assert!(said.ends_with("nothing came back"), "{said}");
    assert_eq!(said.lines().count(), 9, "{said}");
    nothing_came(&fence);
}

pub(crate) async fn the_listeners_cannot_be_reached_directly(setting: &Setting) {
    let (sandbox, fence) = setting.fenced().await;
    let said = python(
        &sandbox,
        "for host in ('127.0.0.1', '::1', '192.0.0.8', 'fd6f:7574:776f:726b::8', '127.0.0.53'):\n\
         \x20 family = socket.AF_INET6 if ':' in host else socket.AF_INET\n\
         \x20 try: socket.create_connection((host, 1), timeout=20); print(host, 'CONNECTED')\n\
         \x20 except OSError as e: print(errno.errorcode[e.errno])\n\
         \x20 u = socket.socket(family, socket.SOCK_DGRAM); u.settimeout(20); u.connect((host, 53))\n\
         \x20 try: u.send(b'x'); u.recv(9); print(host, 'ANSWERED')\n\
         \x20 except OSError as e: print(errno.errorcode[e.errno])\n\
         \x20 try: s = socket.socket(family); s.bind((host, 1)); print(host, 'BOUND')\n\
         \x20 except OSError as e: print(errno.errorcode[e.errno])",
    )
    .await;
    for word in ["CONNECTED", "ANSWERED", "BOUND"] {
        assert!(!said.contains(word), "{said}");
    }
    assert_eq!(said, ["ECONNREFUSED\nEPERM\nEACCES"; 5].join("\n"));
    nothing_came(&fence);
}

pub(crate) async fn closed_sockets_are_no_network(setting: &Setting) {
    let (sandbox, fence) = setting.fenced().await;
    let listener = fence.tcp.try_clone().expect("a handle");
    let established = tokio::task::spawn_blocking(move || greet(&listener));
    let said = bash(&sandbox, "exec 5<>/dev/tcp/203.0.113.9/443; cat <&5").await;
    assert_eq!(said, "you asked for 203.0.113.9:443");
    let (_, stream) = established.await.expect("accepted");
    drop(fence);
    drop(stream);
    let said = bash(&sandbox, "(echo > /dev/tcp/203.0.113.9/443) 2>&1 | grep -om1 'Connection refused'; (echo x > /dev/udp/8.8.8.8/53; echo x > /dev/udp/8.8.8.8/53) 2>/dev/null; getent hosts example.com || echo no names; read -t 5 x <&5; echo $?").await;
    assert_eq!(said, "Connection refused\nno names\n1");
    // Nobody inside can take the listeners' place.
    let said = python(
        &sandbox,
        "for port, kind in ((1, socket.SOCK_STREAM), (53, socket.SOCK_DGRAM)):\n  s = socket.socket(socket.AF_INET6, kind)\n  try: s.bind(('::', port)); print('BOUND')\n  except OSError as e: print(errno.errorcode[e.errno])",
    )
    .await;
    assert_eq!(said, "EACCES\nEACCES");
}

pub(crate) async fn a_fence_is_asked_for_by_name(setting: &Setting) {
    // A launcher that has fences ready makes sandboxes without one when none is asked for, and the other way round.
    for _ in 0..3 {
        let bare = setting
            .launcher
            .launch(SandboxOptions::new(setting.workspace()))
            .await
            .expect("a sandbox");
        assert!(bare.take_fence().is_none());
        let said = bash(
            &bare,
            "(echo > /dev/tcp/203.0.113.9/443) 2>&1 | grep -om1 unreachable; cat /etc/resolv.conf",
        )
        .await;
        assert_eq!(said, "unreachable\n# This sandbox has no network.");
        let (fenced, fence) = setting.fenced().await;
        let _greeted = greeter(&fence);
        let said = bash(&fenced, "exec 5<>/dev/tcp/203.0.113.9/443; cat <&5").await;
        assert_eq!(said, "you asked for 203.0.113.9:443");
    }
    let options = LauncherOptions {
        isolation: Isolation::None,
        ..LauncherOptions::default()
    };
    let open = Launcher::start(options).await.expect("a launcher");
    let refused = open.launch(setting.options()).await;
    assert!(
        matches!(&refused, Err(SandboxError::Step { step, .. }) if step == "network fence"),
        "{refused:?}"
    );
}

pub(crate) async fn a_hundred_at_once(setting: &Setting) {
    let mut tasks = tokio::task::JoinSet::new();
    let begun = std::time::Instant::now();
    for number in 0..100 {
        let launcher = setting.launcher.clone();
        let options = setting.options();
        tasks.spawn(async move {
            let sandbox = launcher.launch(options).await.expect("a sandbox");
            (number, sandbox)
        });
    }
    let mut sandboxes = Vec::new();
    while let Some(one) = tasks.join_next().await {
        sandboxes.push(one.expect("each of them works"));
    }
    println!("    a hundred fenced sandboxes stand after {:?}", begun.elapsed());
    for (number, sandbox) in &sandboxes {
        let fence = sandbox.take_fence().expect("a fence");
        let accepting = tokio::task::spawn_blocking(move || {
            let to = greet(&fence.tcp).0;
            (to, fence)
        });
        let said = bash(sandbox, &format!("exec 5<>/dev/tcp/203.0.113.{number}/443; cat <&5")).await;
        assert_eq!(said, format!("you asked for 203.0.113.{number}:443"));
        let (to, fence) = tokio::time::timeout(Duration::from_secs(20), accepting)
            .await
            .expect("in time")
            .expect("accepted");
        assert_eq!(to.to_string(), format!("203.0.113.{number}:443"));
        // What one sandbox sends arrives at its own fence only.
        nothing_came(&fence);
    }
}
