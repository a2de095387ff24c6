//! A root filesystem from image layers.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use outwork_sandbox::{RootImage, SandboxError, SandboxOptions};

use crate::{Setting, bash, write};

/// A layer with a shell and a few programs, and the libraries that they need.
fn base(setting: &Setting) -> PathBuf {
    let layer = setting.fresh();
    for program in [
        "/bin/bash",
        "/bin/cat",
        "/bin/ls",
        "/usr/bin/id",
        "/usr/bin/env",
        "/bin/grep",
        "/bin/sleep",
    ] {
        install(&layer, Path::new(program));
    }
    write(&layer.join("etc/os-release"), "ID=outwork-test\n");
    write(
        &layer.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/sh\n",
    );
    write(&layer.join("etc/shared"), "base\n");
    write(&layer.join("app/one"), "base\n");
    write(&layer.join("root/secret-of-the-image"), "mine\n");
    std::fs::set_permissions(layer.join("root"), std::fs::Permissions::from_mode(0o700)).expect("its mode");
    layer
}

/// Copies a program and what the loader says it needs.
fn install(layer: &Path, program: &Path) {
    let needed = Command::new("ldd").arg(program).output().expect("ldd");
    let needed = String::from_utf8_lossy(&needed.stdout).into_owned();
    let libraries = needed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from);
    for file in libraries.chain([program.to_path_buf()]) {
        let to = layer.join(file.strip_prefix("/").expect("absolute"));
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("its folder");
        std::fs::copy(&file, &to).expect("a copy");
    }
}

fn options(setting: &Setting, layers: Vec<PathBuf>) -> SandboxOptions {
    SandboxOptions {
        image: RootImage::Layers(layers),
        ..setting.options()
    }
}

pub(crate) async fn an_image_is_the_root(setting: &Setting) {
    let sandbox = setting.launch(options(setting, vec![base(setting)])).await;
    let said = bash(
        &sandbox,
        "pwd; id -un; cat /etc/os-release; ls /; ls /usr/bin; test -e /usr/bin/python3 && echo BREACH; test -e /etc/shells && echo BREACH; grep -c . /etc/passwd; hostname 2>/dev/null; cat /etc/hostname; cat /root/secret-of-the-image",
    )
    .await;
    assert_eq!(
        said,
        "/workspace\nagent\nID=outwork-test\napp\nbin\ndev\netc\nhome\nlib\nlib64\nmnt\nproc\nroot\nrun\nsys\ntmp\nusr\nvar\nworkspace\nenv\nid\n2\nsandbox\nmine"
    );
    let said = bash(
        &sandbox,
        "for d in / /etc /usr/bin /app /var /mnt /run /dev /home /lib64; do (: > $d/attack) 2>/dev/null && echo BREACH $d; done; (echo x >> /etc/shared) 2>/dev/null && echo BREACH; echo t > /tmp/t && cat /tmp/t; echo h > ~/h && cat /home/agent/h; echo w > w && cat /workspace/w; echo v > /var/tmp/v && cat /var/tmp/v; echo n > /dev/null; echo s > /dev/shm/s && cat /dev/shm/s",
    )
    .await;
    assert_eq!(said, "t\nh\nw\nv\ns");
    // The host is nowhere: no mount of its root, no process, no file.
    let said = bash(
        &sandbox,
        "while read -r _ _ _ _ point _; do echo $point; done < /proc/self/mountinfo | grep -vE '^/(dev(/.*)?|proc(/.*)?|sys|tmp|workspace)?$'; for p in /proc/[0-9]*; do echo ${p#/proc/}; done | grep -c .; test -e /proc/1/root/etc && echo BREACH; grep -q 'CapEff:.*[1-9a-f]' /proc/self/status && echo BREACH; ls -A /sys",
    )
    .await;
    assert!(said.trim().parse::<u32>().is_ok_and(|count| count < 6), "{said}");
}

pub(crate) async fn layers_lie_over_each_other(setting: &Setting) {
    let (first, second, third) = (base(setting), setting.fresh(), setting.fresh());
    write(&second.join("etc/shared"), "second\n");
    write(&second.join("app/two"), "second\n");
    write(&third.join("etc/shared"), "third\n");
    let sandbox = setting.launch(options(setting, vec![first, second, third])).await;
    assert_eq!(
        bash(&sandbox, "cat /etc/shared /app/one /app/two").await,
        "third\nbase\nsecond"
    );
}

pub(crate) async fn an_image_has_everything_else_too(setting: &Setting) {
    let file = setting.fresh().join("file");
    write(&file, "given\n");
    let results = setting.fresh();
    let mut options = options(setting, vec![base(setting)]);
    options.network = outwork_sandbox::Network::Fenced;
    options.outputs = Some(results.clone());
    options.env.push(("TOKEN".to_owned(), "placeholder".to_owned()));
    options.ca_pem = Some(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=t",
                "-keyout",
                "/dev/null",
            ])
            .output()
            .map(|made| String::from_utf8_lossy(&made.stdout).into_owned())
            .expect("openssl"),
    );
    for target in [
        "/data/x",
        "/app/given",
        "/app/deep/er",
        "/etc/given.conf",
        "/usr/lib/given",
        "/mnt/session/uploads/x",
        "/root/given",
    ] {
        options.mounts.push(outwork_sandbox::ReadOnlyMount {
            source: file.clone(),
            target: target.into(),
        });
    }
    let sandbox = setting.launch(options).await;
    let fence = sandbox.take_fence().expect("a fence");
    let accepting = std::thread::spawn(move || {
        fence
            .tcp
            .accept()
            .and_then(|(stream, _)| outwork_sandbox::original_destination(stream))
    });
    let said = bash(
        &sandbox,
        "cat /data/x /app/given /app/deep/er /etc/given.conf /usr/lib/given /mnt/session/uploads/x /root/given; cat /app/one; echo $TOKEN $SSL_CERT_FILE; grep -c BEGIN $SSL_CERT_FILE /etc/ssl/certs/ca-certificates.crt; echo r > /mnt/session/outputs/r; grep -c nameserver /etc/resolv.conf; exec 5<>/dev/tcp/203.0.113.9/443; for d in / /data /app /etc /usr/lib /mnt /mnt/session /run/outwork; do (: > $d/attack) 2>/dev/null && echo BREACH $d; done; echo end",
    )
    .await;
    assert_eq!(
        said,
        "given\ngiven\ngiven\ngiven\ngiven\ngiven\ngiven\nbase\nplaceholder /run/outwork/ca-bundle.pem\n/run/outwork/ca-bundle.pem:1\n/etc/ssl/certs/ca-certificates.crt:1\n1\nend"
    );
    assert_eq!(std::fs::read_to_string(results.join("r")).expect("the result"), "r\n");
    let to = accepting.join().expect("accepted").expect("its destination");
    assert_eq!(to.to_string(), "203.0.113.9:443");
}

pub(crate) async fn a_hostile_image_stays_inside(setting: &Setting) {
    let outside = setting.fresh();
    write(&outside.join("secret"), "SECRET-OF-THE-HOST\n");
    let layer = base(setting);
    let host = outside.display().to_string();
    // Links where the sandbox mounts and writes: to the host by name, and up.
    for (name, target) in [
        ("dev", "/proc/1/root/dev"),
        ("proc", "/"),
        ("sys", "/../../sys"),
        ("tmp", host.as_str()),
        ("workspace", "/etc"),
        ("mnt", host.as_str()),
        ("run", "../../../../.."),
        ("home", "/proc/self/cwd"),
        ("etc/resolv.conf", "/workspace/caught"),
        ("etc/hosts", host.as_str()),
        ("etc/ssl", host.as_str()),
        ("data", host.as_str()),
        ("up", "../../../../../../.."),
    ] {
        let link = layer.join(name);
        let _ = std::fs::remove_file(&link);
        symlink(target, &link).expect("a link");
    }
    let file = setting.fresh().join("file");
    write(&file, "given\n");
    let mut options = options(setting, vec![layer]);
    options.outputs = Some(setting.fresh());
    let sandbox = setting.launch(options.clone()).await;
    let said = bash(
        &sandbox,
        "cat /etc/resolv.conf; ls -A /mnt/session; ls /up/ | grep -c workspace; cat /data/secret /up/secret 2>/dev/null; test -c /dev/null && test -d /tmp && echo fine; (: > /etc/attack) 2>/dev/null && echo BREACH; ls -A /workspace",
    )
    .await;
    assert_eq!(said, "# This sandbox has no network.\noutputs\n1\nfine");
    // Links where the sandbox writes the authority that it trusts.
    for (name, target) in [
        ("run/outwork", "/workspace"),
        ("run/outwork/ca.pem", "/workspace/ca.pem"),
    ] {
        let layer = base(setting);
        let link = layer.join(name);
        std::fs::create_dir_all(link.parent().expect("a parent")).expect("its folder");
        symlink(target, &link).expect("a link");
        let mut options = self::options(setting, vec![layer]);
        options.ca_pem = Some(crate::furnished::AUTHORITY.to_owned());
        write(&options.workspace.join("ca.pem"), "mine");
        let workspace = options.workspace.clone();
        let refused = setting.launcher.launch(options).await;
        assert!(
            matches!(&refused, Err(SandboxError::Step { step, .. }) if step == "trusted authority"),
            "{refused:?}"
        );
        let kept = std::fs::read_to_string(workspace.join("ca.pem")).expect("the file");
        assert_eq!(kept, "mine");
    }
    // A mount through a link to a path that only the host has: there is nothing there inside.
    options.mounts.push(outwork_sandbox::ReadOnlyMount {
        source: file.clone(),
        target: "/data/file".into(),
    });
    let refused = setting.launcher.launch(options).await;
    assert!(
        matches!(&refused, Err(SandboxError::Step { step, .. }) if step == "mounts"),
        "{refused:?}"
    );
    assert_eq!(
        std::fs::read_dir(&outside).expect("the folder").count(),
        1,
        "nothing was made on the host"
    );
    // A layer that is a link, or not there.
    let link = setting.fresh().join("layer");
    symlink("/", &link).expect("a link");
    for layer in [link, PathBuf::from("/no/such/layer"), file] {
        let refused = setting.launcher.launch(self::options(setting, vec![layer])).await;
        assert!(
            matches!(&refused, Err(SandboxError::Step { step, .. }) if step == "image layers"),
            "{refused:?}"
        );
    }
    let refused = setting.launcher.launch(self::options(setting, Vec::new())).await;
    assert!(
        matches!(&refused, Err(SandboxError::Option { option: "image", .. })),
        "{refused:?}"
    );
}
