//! Sandboxes on an image, and what keeps a worker from starting.

use std::path::Path;
use std::process::Command;

use outwork_egress::Document;
use outwork_image::Credentials;
use outwork_ledger::Kind;
use outwork_sandbox::worker::{
    BoundaryOptions, ImageSource, OutputOptions, Queue, ServiceOptions, Stop, Worker, WorkerOptions,
};
use outwork_sandbox::{DeviceName, Isolation};
use serde_json::Value;

use crate::plane::own::Own;
use crate::{World, of_kind};

/// A root filesystem with a shell and little else.
fn image(folder: &Path) {
    for program in ["/bin/bash", "/bin/cat", "/bin/ls", "/usr/bin/env"] {
        let needed = Command::new("ldd").arg(program).output().unwrap();
        let needed = String::from_utf8(needed.stdout).unwrap();
        let libraries = needed.split_whitespace().filter(|word| word.starts_with('/'));
        for file in libraries.chain([program]) {
            let to = folder.join(file.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(file, to).unwrap();
        }
    }
    std::fs::create_dir_all(folder.join("etc")).unwrap();
    std::fs::write(folder.join("etc/os-release"), "ID=an-image\n").unwrap();
}

fn source(reference: &str) -> Option<ImageSource> {
    Some(ImageSource {
        reference: reference.to_owned(),
        allow_unpinned: false,
        credentials: Credentials::default(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_stand_on_the_image_and_records_name_it() {
    let folder = tempfile::tempdir().unwrap();
    image(folder.path());
    let reference = folder.path().to_str().unwrap().to_owned();
    let mut world = World::with(Some(Own::of("self_hosted", Value::Null)), |boundary| {
        boundary.image = source(&reference);
    })
    .await;
    assert_eq!(
        world
            .bash("cat /etc/os-release; ls /usr/bin; ls -d /mnt/session/outputs")
            .await,
        "ID=an-image\nenv\n/mnt/session/outputs"
    );
    let records = world.records().await;
    let begun = of_kind(&records, Kind::SandboxStart)[0];
    let digest = begun.image_digest.as_deref().unwrap();
    assert!(digest.starts_with("folder sha256:"), "{digest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_a_wrong_boundary_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let refused = async |change: &dyn Fn(&mut ServiceOptions)| {
        let mut service = ServiceOptions::new("http://127.0.0.1:9", folder.path().join("work"));
        service.state_dir = Some(folder.path().join("state"));
        change(&mut service);
        let worker = Worker::new(WorkerOptions::new(
            service,
            Queue::Environment("env_1".into()),
            "key".to_owned(),
        ));
        let ended = worker.unwrap().run(Stop::default()).await;
        ended.expect_err("must be refused").to_string()
    };
    let boundary = |boundary: BoundaryOptions| move |service: &mut ServiceOptions| service.boundary = boundary.clone();
    let with_image = |reference: &str| {
        boundary(BoundaryOptions {
            image: source(reference),
            ..BoundaryOptions::default()
        })
    };
    let text = refused(&with_image("registry.test.example/name:latest")).await;
    assert!(text.contains("image") && text.contains("digest"), "{text}");
    let text = refused(&with_image("/nowhere/image.tar")).await;
    assert!(text.contains("/nowhere/image.tar"), "{text}");
    let text = refused(&|service| service.state_dir = Some(folder.path().join("work/state"))).await;
    assert!(text.contains("lies in the workspace"), "{text}");
    let text = refused(&boundary(BoundaryOptions {
        upstream_roots: vec![b"-----BEGIN PRIVATE KEY-----".to_vec()],
        ..BoundaryOptions::default()
    }))
    .await;
    assert!(text.contains("no key"), "{text}");
    let text = refused(&boundary(BoundaryOptions {
        outputs: OutputOptions {
            allowed: vec!["[".into()],
            ..OutputOptions::default()
        },
        ..BoundaryOptions::default()
    }))
    .await;
    assert!(text.contains("outputs.allowed"), "{text}");
    for (isolation, says) in [
        (Isolation::Full, "no such device"),
        (Isolation::None, "without isolation"),
    ] {
        let text = refused(&|service| {
            service.isolation = isolation;
            service.boundary.devices = vec![DeviceName::parse("nvidia60000").unwrap()];
        })
        .await;
        assert!(text.contains("nvidia60000") && text.contains(says), "{text}");
    }
    let text = refused(&|service| {
        service.isolation = Isolation::None;
        service.boundary.policy = Some(Document::default());
    })
    .await;
    assert!(text.contains("without isolation"), "{text}");
}
