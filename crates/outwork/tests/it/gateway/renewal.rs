//! `outwork tunnel renew`: a running gateway takes the new certificate over, and the authority follows without a gap.

use rcgen::{CertificateParams, Issuer, KeyPair};
use serde_json::{Value, json};

use super::{Gateway, Office, Orders, late_orders, plane};
use crate::tunnels::authority_params;
use crate::world::World;

async fn active(world: &World, office: &Office) -> Vec<Value> {
    let path = format!("/v1/tunnels/{}/certificates", office.tunnel_id);
    world.api.get(&path).await.ok()["data"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_when_it_is_time_and_a_running_gateway_takes_it_over() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let gateway = Gateway::connected(&world, &office).await;
    let first = office.read("tls.crt");
    let said = office.tunnel(&world, &["renew", "--json"]).await.json();
    assert_eq!(
        (&said["certificate"], office.read("tls.crt") == first),
        (&json!("kept"), true)
    );
    // 90 days are left, which is not enough for whoever wants 91.
    let words = ["renew", "--before", "2184h", "--lifetime", "4800h", "--json"];
    let said = office.tunnel(&world, &words).await.json();
    assert_eq!(said["certificate"], "renewed");
    assert_ne!(office.read("tls.crt"), first);
    gateway.says("the new configuration is in force", 0).await;
    assert!(late_orders(&world, &office).await.unwrap().contains(&orders.parcel));
    let said = office.tunnel(&world, &words).await.json();
    assert_eq!(said["certificate"], "kept");
    // A pair that does not fit, as a crash between the two files leaves it, is made anew.
    std::fs::write(office.file("tls.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let said = office.tunnel(&world, &["renew", "--json"]).await.json();
    assert_eq!(said["certificate"], "renewed");
    assert_eq!(active(&world, &office).await.len(), 1);
    office
        .tunnel(&world, &["renew", "--before", "48h", "--lifetime", "24h"])
        .await
        .refused(&["--before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_near_its_end_is_followed_by_another_without_a_gap() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    // The folder's authority is replaced by one that ends soon, as it would after years.
    let old = active(&world, &office).await;
    let (params, key) = (
        authority_params(|params| {
            let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(100 * 86_400);
            params.not_after = soon.into();
        }),
        KeyPair::generate().unwrap(),
    );
    let ending = params.self_signed(&key).unwrap().pem();
    let server_key = KeyPair::generate().unwrap();
    let names = vec![office.domain.clone(), format!("*.{}", office.domain)];
    let key_pem = key.serialize_pem();
    let certificate = CertificateParams::new(names)
        .unwrap()
        .signed_by(&server_key, &Issuer::new(params, key))
        .unwrap();
    for (name, text) in [
        ("ca.crt", ending.clone()),
        ("ca.key", key_pem),
        ("tls.crt", certificate.pem()),
        ("tls.key", server_key.serialize_pem()),
    ] {
        std::fs::write(office.file(name), text).unwrap();
    }
    office.tunnel(&world, &["setup"]).await.ok();
    let path = format!(
        "/v1/tunnels/{}/certificates/{}/archive",
        office.tunnel_id,
        old[0]["id"].as_str().unwrap()
    );
    world.api.post(&path, json!({})).await.ok();
    let gateway = Gateway::connected(&world, &office).await;
    assert!(late_orders(&world, &office).await.unwrap().contains(&orders.parcel));

    // 100 days are less than the life of a certificate and the time before it is renewed.
    let said = office.tunnel(&world, &["renew", "--json"]).await.json();
    assert_eq!(said["certificate"], "renewed", "{said}");
    let next = said["new_authority"].as_str().unwrap();
    assert_eq!(active(&world, &office).await.len(), 2);
    assert_eq!(office.read("ca-old.crt"), ending);
    assert!(!office.file("ca-next.key").exists());
    gateway.says("the new configuration is in force", 0).await;
    assert!(late_orders(&world, &office).await.unwrap().contains(&orders.parcel));
    // Without the old one it still works: what is shown is signed by the new one.
    for authority in active(&world, &office).await {
        let id = authority["id"].as_str().unwrap();
        if id != next {
            let path = format!("/v1/tunnels/{}/certificates/{id}/archive", office.tunnel_id);
            world.api.post(&path, json!({})).await.ok();
        }
    }
    assert!(late_orders(&world, &office).await.unwrap().contains(&orders.parcel));
    assert_eq!(
        office.tunnel(&world, &["renew", "--json"]).await.json()["certificate"],
        "kept"
    );

    // Two more: the one before the last makes place, and there are never more than two.
    for _ in 0..2 {
        office.tunnel(&world, &["renew", "--new-authority"]).await.ok();
        assert_eq!(active(&world, &office).await.len(), 2);
    }
    // A place that is taken by a stranger is not cleared.
    let strange = crate::tunnels::authority_pem(|_| {});
    let all = active(&world, &office).await;
    let path = format!("/v1/tunnels/{}/certificates", office.tunnel_id);
    let before = format!("{path}/{}/archive", all[1]["id"].as_str().unwrap());
    world.api.post(&before, json!({})).await.ok();
    world
        .api
        .post(&path, json!({ "ca_certificate_pem": strange }))
        .await
        .ok();
    let present = office.read("tls.crt");
    office
        .tunnel(&world, &["renew", "--new-authority"])
        .await
        .refused(&["2 active authorities", "archive"]);
    assert_eq!(office.read("tls.crt"), present);
    // What was begun is completed once there is a place.
    let all = active(&world, &office).await;
    let path = format!("{path}/{}/archive", all[0]["id"].as_str().unwrap());
    world.api.post(&path, json!({})).await.ok();
    let said = office.tunnel(&world, &["renew", "--json"]).await.json();
    assert_eq!(said["certificate"], "renewed");
    assert!(!office.file("ca-next.crt").exists());
    office.tunnel(&world, &["setup"]).await.ok();
}
