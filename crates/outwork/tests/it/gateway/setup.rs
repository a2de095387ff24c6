//! `outwork tunnel setup`: made once, completed where it was interrupted, refused where it is another's.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{Office, Orders, plane, tunnel};
use crate::world::World;

/// The files of a folder, with their modes.
fn files(office: &Office) -> BTreeMap<String, (String, u32)> {
    std::fs::read_dir(office.path())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, (std::fs::read_to_string(&path).unwrap(), mode))
        })
        .collect()
}

async fn tunnels(world: &World) -> Vec<Value> {
    let all = world.api.get("/v1/tunnels").await.ok();
    all["data"].as_array().unwrap().clone()
}

async fn authorities(world: &World, office: &Office) -> Vec<Value> {
    let path = format!("/v1/tunnels/{}/certificates", office.tunnel_id);
    let all = world.api.get(&path).await.ok();
    all["data"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_done_twice_doubles_nothing() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let first = files(&office);
    for secret in ["token", "ca.key", "tls.key"] {
        assert_eq!(first[secret].1, 0o600, "{secret}");
    }
    let mode = std::fs::metadata(office.path()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let edge = world.api.get("/v1/outwork/edge").await.ok();
    let config = &first["config.yaml"].0;
    for said in [edge["listen"].as_str().unwrap(), &office.tunnel_id, &office.domain] {
        assert!(config.contains(said), "{said}: {config}");
    }
    let pinned = edge["fingerprint"]
        .as_str()
        .unwrap()
        .trim_start_matches("sha256:")
        .to_owned();
    assert!(config.contains(&pinned), "{config}");

    for again in [
        &["setup"][..],
        &["setup", "--name", "office"],
        &["setup", "--tunnel", &office.tunnel_id],
    ] {
        let said = office.tunnel(&world, &[again, &["--json"]].concat()).await.json();
        let kept = json!("kept");
        assert_eq!(
            [
                &said["token"],
                &said["config"],
                &said["certificate"]["change"],
                &said["tunnel"]
            ],
            [&kept; 4],
            "{again:?}"
        );
        assert_eq!(files(&office), first, "{again:?}");
    }
    assert_eq!(
        (tunnels(&world).await.len(), authorities(&world, &office).await.len()),
        (1, 1)
    );
    // Another folder joins the tunnel of the same name with an authority of its own, and a third finds no place.
    let elsewhere = tempfile::tempdir().unwrap();
    let setup = async |name: &str| {
        let folder = elsewhere.path().join(name);
        let words = [
            "setup",
            "--name",
            "office",
            "--folder",
            folder.to_str().unwrap(),
            "--json",
        ];
        tunnel(world.server.base_url(), &words).await
    };
    let second = setup("two").await.json();
    assert_eq!(
        (&second["tunnel_id"], &second["tunnel"]),
        (&json!(office.tunnel_id), &json!("joined"))
    );
    setup("three")
        .await
        .refused(&["2 active authorities", "tcrt_", "archive"]);
    assert_eq!(tunnels(&world).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_setup_left_is_completed() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let mut before = files(&office);
    // Whatever is missing is made, and nothing else.
    for (lost, also) in [
        ("token", ""),
        ("tls.crt", "tls.key"),
        ("tls.key", "tls.crt"),
        ("config.yaml", ""),
    ] {
        std::fs::remove_file(office.file(lost)).unwrap();
        office.tunnel(&world, &["setup"]).await.ok();
        let now = files(&office);
        assert!(now.contains_key(lost), "{lost}");
        for (name, content) in &before {
            let same = now[name] == *content;
            assert!(same || [lost, also].contains(&name.as_str()), "{lost}: {name} changed");
        }
        before = now;
    }
    // Between the authority's key and its certificate, and before it was registered.
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        std::fs::remove_file(office.file(name)).unwrap();
    }
    office.tunnel(&world, &["setup"]).await.ok();
    office.tunnel(&world, &["check"]).await.refused(&["routes is missing"]);
    assert_eq!(authorities(&world, &office).await.len(), 2);

    // The tunnel was made and the folder does not know yet: it is found by the name that was kept before.
    let made = world
        .api
        .post("/v1/tunnels", json!({ "display_name": "host-x1y2z3" }))
        .await
        .ok();
    let folder = tempfile::tempdir().unwrap();
    let state = json!({ "name": "host-x1y2z3" }).to_string();
    std::fs::write(folder.path().join("tunnel.json"), state).unwrap();
    let words = ["setup", "--folder", folder.path().to_str().unwrap(), "--json"];
    let said = tunnel(world.server.base_url(), &words).await.json();
    assert_eq!((&said["tunnel_id"], &said["tunnel"]), (&made["id"], &json!("joined")));
    assert_eq!(tunnels(&world).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_is_taken_and_what_is_anothers_is_refused() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let other = world.api.make("/v1/tunnels", json!({ "display_name": "other" })).await;
    let before = files(&office);
    office
        .tunnel(&world, &["setup", "--tunnel", &other])
        .await
        .refused(&[&office.tunnel_id, "--folder"]);
    office
        .tunnel(&world, &["setup", "--name", "other"])
        .await
        .refused(&["office", "--folder"]);
    assert_eq!(files(&office), before);

    let path = format!("/v1/tunnels/{}/rotate_token", office.tunnel_id);
    let rotated = world.api.post(&path, json!({})).await.ok();
    let said = office.tunnel(&world, &["setup", "--json"]).await.json();
    assert_eq!(said["token"], "replaced");
    assert_eq!(office.read("token").trim(), rotated["tunnel_token"].as_str().unwrap());

    // The configuration is its owner's; what would have to change is said.
    office.configure("fingerprint: \"", "fingerprint: \"00:");
    office.configure("addresses: [\"127.0.0.1", "addresses: [\"127.0.0.2");
    let text = office.read("config.yaml");
    let text =
        text.replacen("00:", "", 1)
            .replacen("fingerprint: \"", &format!("fingerprint: \"{}\" #", "0".repeat(64)), 1);
    std::fs::write(office.file("config.yaml"), &text).unwrap();
    let said = office.tunnel(&world, &["setup"]).await.ok();
    assert!(
        said.contains("edge.fingerprint") && said.contains("edge.addresses"),
        "{said}"
    );
    assert_eq!(office.read("config.yaml"), text);

    // A tunnel that is archived is not set up.
    let path = format!("/v1/tunnels/{}/archive", office.tunnel_id);
    world.api.post(&path, json!({})).await.ok();
    office
        .tunnel(&world, &["setup"])
        .await
        .refused(&["archived", &office.tunnel_id]);
    // A folder with a key of something else is not touched.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tls.key"), "mine").unwrap();
    let words = ["setup", "--folder", folder.path().to_str().unwrap()];
    tunnel(world.server.base_url(), &words)
        .await
        .refused(&["tls.key", "--folder"]);
    assert_eq!(std::fs::read_to_string(folder.path().join("tls.key")).unwrap(), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_edge_nothing_is_made() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let words = ["setup", "--folder", folder.path().to_str().unwrap()];
    tunnel(world.server.base_url(), &words)
        .await
        .refused(&["--tunnel-listen", "--edge"]);
    assert!(tunnels(&world).await.is_empty());
}
