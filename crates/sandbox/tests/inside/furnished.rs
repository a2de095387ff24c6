//! Variables, certificates, mounts, results and devices of one sandbox.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use outwork_sandbox::outputs::{CollectLimits, collect};
use outwork_sandbox::{DeviceName, Isolation, Launcher, LauncherOptions, ReadOnlyMount, SandboxError, SandboxOptions};

use crate::{Setting, bash, write};

pub(crate) async fn variables_are_there(setting: &Setting) {
    let mut options = setting.options();
    options.env = vec![
        ("API_TOKEN".to_owned(), "placeholder-0000".to_owned()),
        ("LANG".to_owned(), "C".to_owned()),
    ];
    let sandbox = setting.launch(options).await;
    assert_eq!(
        bash(&sandbox, "echo $API_TOKEN $LANG $HOME ${SSL_CERT_FILE-none}").await,
        "placeholder-0000 C /home/agent none"
    );
    let other = setting.launch(setting.options()).await;
    assert_eq!(bash(&other, "echo ${API_TOKEN-none}").await, "none");
}

/// An authority and a certificate for `localhost` that it signed, made with `openssl`.
fn authority(folder: &Path) -> String {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=Outwork test authority' -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null \
        && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout leaf.key -out leaf.csr 2>/dev/null \
        && printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\n' > ext && openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out leaf.pem 2>/dev/null && cat leaf.key leaf.pem > server.pem";
    let made = Command::new("sh").args(["-c", script]).current_dir(folder).status();
    assert!(made.is_ok_and(|made| made.success()), "openssl makes certificates");
    std::fs::read_to_string(folder.join("ca.pem")).expect("the authority")
}

const SERVER: &str = "cat > server.py <<'END'\nimport http.server, ssl, os\nos.chdir('/workspace/served')\ns = http.server.ThreadingHTTPServer(('127.0.0.1', 4443), http.server.SimpleHTTPRequestHandler)\nc = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('/workspace/server.pem'); s.socket = c.wrap_socket(s.socket, server_side=True)\nopen('/workspace/up', 'w').close(); s.serve_forever()\nEND\nrm -f up; /usr/bin/python3 server.py >/dev/null 2>&1 & while ! test -e up; do sleep 0.02; done";

pub(crate) async fn an_authority_is_trusted(setting: &Setting) {
    let mut options = setting.options();
    let workspace = options.workspace.clone();
    let pem = authority(&workspace);
    write(&workspace.join("served/hello"), "trusted\n");
    options.ca_pem = Some(pem);
    let trusting = setting.launch(options.clone()).await;
    options.ca_pem = None;
    let other = setting.launch(options).await;
    bash(&trusting, SERVER).await;
    bash(&other, SERVER).await;
    let clients = [
        ("/usr/bin/curl", "curl -s https://localhost:4443/hello"),
        (
            "/usr/bin/curl",
            "env -u SSL_CERT_FILE -u CURL_CA_BUNDLE curl -s https://localhost:4443/hello",
        ),
        ("/usr/bin/wget", "wget -qO- https://localhost:4443/hello"),
        (
            "/usr/bin/python3",
            "/usr/bin/python3 -c \"import urllib.request as u; print(u.urlopen('https://localhost:4443/hello').read().decode(), end='')\"",
        ),
        (
            "/usr/bin/node",
            "node -e \"require('https').get('https://localhost:4443/hello', r => r.pipe(process.stdout)).on('error', e => console.log(e.code))\"",
        ),
        (
            "/usr/bin/openssl",
            "echo | openssl s_client -connect localhost:4443 -verify_return_error 2>&1 | grep -q '^Verification: OK' && echo trusted",
        ),
        (
            "/usr/bin/perl",
            "perl -MIO::Socket::SSL -e '1' 2>/dev/null || { echo trusted; false; } && perl -MIO::Socket::SSL -e '$s = IO::Socket::SSL->new(\"localhost:4443\") or exit 1; print \"trusted\\n\"'",
        ),
        (
            "/usr/bin/java",
            "cat > /tmp/T.java <<'END'\npublic class T { public static void main(String[] a) throws Exception { System.out.print(new String(new java.net.URL(\"https://localhost:4443/hello\").openStream().readAllBytes())); } }\nEND\njava /tmp/T.java 2>/dev/null",
        ),
    ];
    let mut tried = 0;
    for (program, command) in clients {
        if !Path::new(program).exists() {
            println!("    {program} is not installed here");
            continue;
        }
        assert_eq!(bash(&trusting, command).await, "trusted", "{command}");
        if !command.contains("IO::Socket::SSL") {
            // The same client without the authority: it must refuse, or the case proves nothing.
            let said = bash(&other, command).await;
            assert!(!said.contains("trusted"), "{command}: {said}");
        }
        tried += 1;
    }
    assert!(tried > 2, "some clients are installed");
    // Git, where it has a TLS of its own.
    let git = "cd /tmp && git ls-remote https://localhost:4443/none 2>&1";
    let (with, without) = (bash(&trusting, git).await, bash(&other, git).await);
    if without.contains("certificate") {
        assert!(!with.contains("certificate"), "{with}");
    } else {
        println!("    git has no https here: {without}");
    }
    // Nothing inside can change it, and the usual authorities are still there.
    let said = bash(
        &trusting,
        "(echo x >> /run/outwork/ca-bundle.pem) 2>/dev/null && echo written; (echo x >> /etc/ssl/certs/ca-certificates.crt) 2>/dev/null && echo written; rm -f /run/outwork/ca.pem 2>/dev/null && echo removed; chmod 666 /run/outwork/ca.pem 2>/dev/null && echo changed; test $(grep -c BEGIN /etc/ssl/certs/ca-certificates.crt) -gt $(grep -c BEGIN /run/outwork/ca.pem); echo $?",
    )
    .await;
    let host = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    assert_eq!(said, if host.contains("BEGIN") { "0" } else { "1" });
}

fn mount(source: &Path, target: &str) -> ReadOnlyMount {
    ReadOnlyMount {
        source: source.to_path_buf(),
        target: PathBuf::from(target),
    }
}

const PLACES: &[&str] = &[
    "/mnt/session/uploads/report.csv",
    "/workspace/data/input.csv",
    "/home/agent/notes.txt",
    "/tmp/given/x",
    "/data/deep/er/file",
    "/data/other",
    "/opt/tool/config",
    "/etc/tool.conf",
    "/usr/share/outwork-test/file",
    "/var/lib/thing/file",
    "/srv/a",
    "/top-level-file",
    "/etc/hostname",
];

pub(crate) async fn files_are_mounted_anywhere(setting: &Setting) {
    let source = setting.fresh();
    let mut options = setting.options();
    for (number, target) in PLACES.iter().enumerate() {
        let file = source.join(format!("f{number}"));
        write(&file, &format!("file {number}\n"));
        // Only the worker may read it outside.
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        options.mounts.push(mount(&file, target));
    }
    let folder = source.join("folder");
    write(&folder.join("in/side"), "in a folder\n");
    options.mounts.push(mount(&folder, "/data/folder"));
    let sandbox = setting.launch(options).await;
    for (number, target) in PLACES.iter().enumerate() {
        assert_eq!(
            bash(&sandbox, &format!("cat {target}")).await,
            format!("file {number}"),
            "{target}"
        );
        let said = bash(&sandbox, &format!("(echo x > {target}) 2>/dev/null && echo written; (rm -f {target}) 2>/dev/null && echo removed; (mv {target} {target}.x) 2>/dev/null && echo moved; cat {target}")).await;
        assert_eq!(said, format!("file {number}"), "{target}");
    }
    assert_eq!(bash(&sandbox, "cat /data/folder/in/side").await, "in a folder");
    // Everything else is as it was.
    let said = bash(
        &sandbox,
        "id -un; test -e /etc/passwd && test -e /usr/bin/env && test -c /dev/null && ls /proc/self >/dev/null && echo whole; for d in / /data /usr/share /etc /opt /mnt /srv /usr/share/outwork-test /dev; do (: > $d/attack) 2>/dev/null && echo BREACH $d; done; echo x > /tmp/x && echo y > /workspace/y && cat /tmp/x",
    )
    .await;
    assert_eq!(said, "agent\nwhole\nx");
    let kept = bash(&sandbox, "ls /usr/share | wc -l; ls /etc | wc -l; ls / | tr '\\n' ' '").await;
    let plain = setting.launch(setting.options()).await;
    let before = bash(&plain, "ls /usr/share | wc -l; ls /etc | wc -l; ls / | tr '\\n' ' '").await;
    let number = |text: &str, line: usize| {
        text.lines()
            .nth(line)
            .and_then(|line| line.trim().parse::<usize>().ok())
    };
    for line in [0, 1] {
        assert_eq!(
            number(&kept, line),
            number(&before, line).map(|count| count + 1),
            "{kept}\n{before}"
        );
    }
    let more = kept.lines().nth(2).expect("names");
    for name in before.lines().nth(2).expect("names").split_whitespace() {
        assert!(
            more.split_whitespace().any(|kept| kept == name),
            "{name} is gone: {more}"
        );
    }
}

pub(crate) async fn mounts_are_read_only_and_whole(setting: &Setting) {
    let source = setting.fresh();
    write(&source.join("a/b/c"), "c\n");
    write(&source.join("run.sh"), "#!/bin/sh\necho ran\n");
    std::fs::set_permissions(source.join("run.sh"), std::fs::Permissions::from_mode(0o4755)).expect("its mode");
    let mut options = setting.options();
    options.mounts.push(mount(&source, "/given"));
    // A mount in a mount: the inner one wins, whatever order they come in.
    let inner = setting.fresh().join("inner");
    write(&inner, "inner\n");
    options.mounts.insert(0, mount(&inner, "/given/a/new"));
    let sandbox = setting.launch(options).await;
    let said = bash(
        &sandbox,
        "cat /given/a/b/c /given/a/new; /given/run.sh; find /given -exec sh -c '(: > \"$1/x\") 2>/dev/null && echo BREACH $1; (echo x >> \"$1\") 2>/dev/null && echo BREACH $1' - {} \\;; touch /given 2>/dev/null && echo BREACH; grep ' /given' /proc/self/mountinfo | grep -cv nosuid",
    )
    .await;
    assert_eq!(said, "c\ninner\nran\n0");
    assert!(!source.join("a/new").exists(), "nothing is made in the source");
}

pub(crate) async fn links_lead_nowhere(setting: &Setting) {
    let secret = setting.fresh().join("secret");
    write(&secret, "SECRET-OF-THE-HOST\n");
    // A source that is a link.
    let link = setting.fresh().join("link");
    symlink(&secret, &link).expect("a link");
    let mut options = setting.options();
    options.mounts.push(mount(&link, "/data/x"));
    let refused = setting.launcher.launch(options).await;
    assert!(
        matches!(&refused, Err(SandboxError::Step { step, reason }) if step == "mounts" && reason.contains("is a link")),
        "{refused:?}"
    );
    // A target through links that the workload left in its workspace.
    let file = setting.fresh().join("file");
    write(&file, "given\n");
    for (name, target) in [
        ("out", "/etc"),
        ("up", "../.."),
        ("magic", "/proc/self/root"),
        ("self", "self"),
    ] {
        let mut options = setting.options();
        symlink(target, options.workspace.join(name)).expect("a link");
        options.mounts.push(mount(&file, &format!("/workspace/{name}/passwd")));
        let refused = setting.launcher.launch(options).await;
        assert!(
            matches!(&refused, Err(SandboxError::Step { step, .. }) if step == "mounts"),
            "{name}: {refused:?}"
        );
    }
    // Devices, pipes and sockets are no files.
    for special in ["/dev/null", "/dev/zero"] {
        let mut options = setting.options();
        options.mounts.push(mount(Path::new(special), "/data/x"));
        let refused = setting.launcher.launch(options).await;
        assert!(
            matches!(&refused, Err(SandboxError::Step { step, .. }) if step == "mounts"),
            "{refused:?}"
        );
    }
    // A source that does not exist.
    let mut options = setting.options();
    options.mounts.push(mount(Path::new("/no/such/file"), "/data/x"));
    let refused = setting.launcher.launch(options).await;
    assert!(
        matches!(&refused, Err(SandboxError::Step { reason, .. }) if reason.contains("/no/such/file")),
        "{refused:?}"
    );
}

pub(crate) async fn results_are_collected(setting: &Setting) {
    let outputs = setting.fresh();
    let mut options = setting.options();
    options.outputs = Some(outputs.clone());
    let sandbox = setting.launch(options).await;
    let said = bash(
        &sandbox,
        "cd /mnt/session/outputs && mkdir -p charts && echo result > charts/one.txt && ln -s /etc/passwd stolen && ln -s ../../../.. up && mkfifo pipe && ln /etc/hostname hard 2>/dev/null; (: > /mnt/session/x) 2>/dev/null && echo BREACH; (: > /mnt/x) 2>/dev/null && echo BREACH; mv /mnt/session/outputs /mnt/session/gone 2>/dev/null && echo BREACH; ls /mnt/session",
    )
    .await;
    assert_eq!(said, "outputs");
    let mut found = collect(&outputs, &CollectLimits::default()).expect("collected");
    let paths: Vec<&str> = found.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["charts/one.txt"]);
    assert_eq!(
        found.files.first_mut().expect("a file").read().expect("read"),
        b"result\n"
    );
    let mut left: Vec<&str> = found.left_out.iter().map(|left| left.path.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["pipe", "stolen", "up"]);
    // A link that is swapped while it is collected: a folder and a link to the host's /etc, in turn.
    bash(&sandbox, "cd /mnt/session/outputs && rm -rf * && mkdir d && echo inside > d/hostname && ln -s /etc evil && cat > /tmp/swap.py <<'END'\nimport ctypes\nlibc = ctypes.CDLL(None)\nwhile True: libc.renameat2(-100, b'd', -100, b'evil', 2)\nEND\n/usr/bin/python3 /tmp/swap.py >/dev/null 2>&1 & sleep 0.2").await;
    let (mut inside, mut refused) = (0, 0);
    let begun = std::time::Instant::now();
    while (inside < 20 || refused < 20) && begun.elapsed() < std::time::Duration::from_secs(30) {
        for mut file in collect(&outputs, &CollectLimits::default()).expect("collected").files {
            assert!(file.path.ends_with("hostname"), "{}", file.path);
            assert_eq!(file.read().expect("read"), b"inside\n");
            inside += 1;
        }
        refused += collect(&outputs, &CollectLimits::default())
            .expect("collected")
            .left_out
            .len();
    }
    assert!(inside > 0 && refused > 0, "the race was not run: {inside} {refused}");
}

pub(crate) async fn options_that_cannot_work_are_refused(setting: &Setting) {
    let file = setting.fresh().join("file");
    write(&file, "x");
    for target in [
        "relative",
        "/",
        "/proc/x",
        "/proc",
        "/sys/x",
        "/dev/sda",
        "/a/../b",
        "/a/./b/..",
        "/workspace",
        "/tmp",
        "/run/outwork/ca.pem",
        "/etc",
        "/home/agent",
    ] {
        let mut options = setting.options();
        options.mounts.push(mount(&file, target));
        let refused = setting.launcher.launch(options).await;
        assert!(
            matches!(&refused, Err(SandboxError::Option { option: "mounts", .. })),
            "{target}: {refused:?}"
        );
    }
    let mut options = setting.options();
    options.mounts = vec![mount(&file, "/data/x"), mount(&file, "/data/x")];
    assert!(matches!(
        setting.launcher.launch(options).await,
        Err(SandboxError::Option { option: "mounts", .. })
    ));
    for target in ["/mnt/session", "/mnt/session/outputs", "/mnt/session/outputs/x"] {
        let mut options = setting.options();
        options.outputs = Some(setting.fresh());
        options.mounts.push(mount(&file, target));
        let refused = setting.launcher.launch(options).await;
        assert!(
            matches!(&refused, Err(SandboxError::Option { option: "mounts", .. })),
            "{refused:?}"
        );
    }
    for pem in [
        "",
        "not a certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    ] {
        let mut options = setting.options();
        options.ca_pem = Some(pem.to_owned());
        let refused = setting.launcher.launch(options).await;
        assert!(
            matches!(&refused, Err(SandboxError::Option { option: "ca_pem", .. })),
            "{refused:?}"
        );
    }
    let open = LauncherOptions {
        isolation: Isolation::None,
        ..LauncherOptions::default()
    };
    let open = Launcher::start(open).await.expect("a launcher");
    for change in [
        |options: &mut SandboxOptions| options.outputs = Some(options.workspace.clone()),
        |options: &mut SandboxOptions| options.devices = vec![DeviceName::parse("nvidia0").expect("a name")],
        |options: &mut SandboxOptions| options.mounts = vec![mount(Path::new("/etc/hostname"), "/data/x")],
    ] {
        let mut options = setting.options();
        change(&mut options);
        let refused = open.launch(options).await;
        assert!(matches!(&refused, Err(SandboxError::Option { .. })), "{refused:?}");
    }
}

pub(crate) async fn devices_are_given_by_name_only(setting: &Setting) {
    for name in [
        "null",
        "mem",
        "sda",
        "kvm",
        "../mem",
        "nvidia",
        "nvidia01",
        "nvidia-uvm/../mem",
        "dri/by-path/x",
        "dri/card",
        "",
    ] {
        let refused = DeviceName::parse(name);
        assert!(
            matches!(&refused, Err(SandboxError::Option { option: "devices", .. })),
            "{name}: {refused:?}"
        );
    }
    for name in ["nvidia0", "/dev/nvidiactl", "dri/renderD128", "nvidia-uvm"] {
        let device = DeviceName::parse(name).expect("a name");
        let path = Path::new("/dev").join(device.as_str());
        let mut options = setting.options();
        options.devices.push(device);
        if !path.exists() {
            let refused = setting.launcher.launch(options).await;
            assert!(
                matches!(&refused, Err(SandboxError::Step { step, reason }) if step == "devices" && reason.contains(&*path.to_string_lossy())),
                "{refused:?}"
            );
        }
    }
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // With devices of that name in a /dev of its own: the true numbers are given, others are not.
    let script = "mount -t tmpfs t /mnt && cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /mnt/ && mkdir /mnt/dri && mknod -m 666 /mnt/dri/renderD128 c 226 128 && mknod -m 666 /mnt/nvidia0 c 1 5 && mknod -m 666 /mnt/nvidia1 b 195 1 && ln -s full /mnt/nvidia2 && mount --move /mnt /dev && exec \"$0\" given";
    let own = std::env::current_exe().expect("this program");
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(own)
        .env("OUTWORK_INSIDE_DEVICES", "1")
        .output()
        .expect("unshare");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("devices: given and refused"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// In a mount namespace whose `/dev` has devices of these names.
pub(crate) async fn with_devices(setting: &Setting) {
    let mut options = setting.options();
    options
        .devices
        .push(DeviceName::parse("dri/renderD128").expect("a name"));
    let sandbox = setting.launch(options).await;
    let said = bash(
        &sandbox,
        "stat -c '%F %t:%T' /dev/dri/renderD128; ls -A /dev | tr '\\n' ' '; echo; echo x > /dev/null && head -c 2 /dev/zero | wc -c; (: > /dev/attack) 2>/dev/null && echo BREACH",
    )
    .await;
    assert_eq!(
        said,
        "character special file e2:80\ndri fd full null random shm stderr stdin stdout urandom zero \n2"
    );
    for name in ["nvidia0", "nvidia1", "nvidia2"] {
        let mut options = setting.options();
        options.devices.push(DeviceName::parse(name).expect("a name"));
        let refused = setting.launcher.launch(options).await;
        assert!(
            matches!(&refused, Err(SandboxError::Step { step, .. }) if step == "devices"),
            "{name}: {refused:?}"
        );
    }
    println!("devices: given and refused");
}

/// An authority that nobody has the key of.
pub(crate) const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBlTCCATugAwIBAgIUOcSz/RMSXr07zveWPpNJ9JsF7scwCgYIKoZIzj0EAwIw\n\
HzEdMBsGA1UEAwwUT3V0d29yayBhdHRhY2sgc3VpdGUwIBcNMjYxMTIxMDczODAy\n\
WhgPMjEyNjEwMjgwNzM4MDJaMB8xHTAbBgNVBAMMFE91dHdvcmsgYXR0YWNrIHN1\n\
aXRlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEIxEysuGFjCjEd5yP4N4HH+s7\n\
xuCY15Gvab6YfKuX9fGO71MNOS/2nmAgg8J5JbU8PdmcpGhpuxV5siQZfbm/4KNT\n\
MFEwHQYDVR0OBBYEFLl9KryHgIGlogkapPFS28QvkariMB8GA1UdIwQYMBaAFLl9\n\
KryHgIGlogkapPFS28QvkariMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwID\n\
SAAwRQIgN2LijzdU2g1o2VV5XqLvhSZa0vAisKMldhEMmby6uQwCIQDEkeuKZPql\n\
1LwHpC4+rMaRyyF4wQHAF7+bZEwt9byfBA==\n\
-----END CERTIFICATE-----\n";
