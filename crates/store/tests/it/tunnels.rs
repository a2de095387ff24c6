//! Tunnels, their certificates, what passed through them; tokens of workloads.

use outwork_store::{
    Credential, KeyHash, NewFederatedToken, NewTunnel, NewTunnelCertificate, NewTunnelToken, StoreError, TunnelRefusal,
    TunnelRow, UsageDelta,
};
use outwork_wire::Time;
use outwork_wire::id::{FederationRuleId, TunnelCertificateId, TunnelId, TunnelTokenId};

use crate::support::{Bed, at, bed, first, from};

fn token(text: &str) -> NewTunnelToken {
    NewTunnelToken {
        id: TunnelTokenId::fresh(),
        sealed: text.bytes().rev().collect(),
        hash: KeyHash::of(text),
    }
}

fn new(domain: &str) -> NewTunnel {
    NewTunnel {
        id: TunnelId::fresh(),
        display_name: Some(format!("the one at {domain}")),
        domain: domain.to_owned(),
        token: token(domain),
    }
}

fn certificate(number: u8, expires_at: Option<Time>) -> NewTunnelCertificate {
    NewTunnelCertificate {
        id: TunnelCertificateId::fresh(),
        fingerprint: format!("{number:064x}"),
        der: vec![number; 3],
        expires_at,
    }
}

async fn made(bed: &Bed, domain: &str, now: Time) -> TunnelRow {
    bed.store.create_tunnel(&bed.ws, new(domain), 10, now).await.unwrap()
}

fn is_conflict<T>(result: Result<T, StoreError>, named: &str) {
    match result {
        Err(StoreError::Conflict { message }) => assert!(message.contains(named), "{message}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was done; a conflict that names {named} was due"),
    }
}

fn is_missing<T>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn a_domain_is_never_given_out_twice_and_archived_tunnels_make_room() {
    let bed = bed();
    let first_one = made(&bed, "a.example", at(1)).await;
    assert_eq!((first_one.generation, first_one.paused_at), (1, None));
    assert!(
        bed.store
            .create_tunnel(&bed.ws, new("a.example"), 10, at(2))
            .await
            .is_err()
    );
    let archived = bed.store.archive_tunnel(&bed.ws, &first_one.id, at(3)).await.unwrap();
    assert_eq!(archived.archived_at, Some(at(3)));
    assert_eq!(
        bed.store.archive_tunnel(&bed.ws, &first_one.id, at(4)).await.unwrap(),
        archived
    );
    assert!(
        bed.store
            .create_tunnel(&bed.ws, new("a.example"), 10, at(5))
            .await
            .is_err()
    );

    let second = bed
        .store
        .create_tunnel(&bed.ws, new("b.example"), 1, at(6))
        .await
        .unwrap();
    is_conflict(
        bed.store.create_tunnel(&bed.ws, new("c.example"), 1, at(7)).await,
        "1 is the most",
    );
    bed.store.archive_tunnel(&bed.ws, &second.id, at(8)).await.unwrap();
    bed.store
        .create_tunnel(&bed.ws, new("d.example"), 1, at(9))
        .await
        .unwrap();
    let found = bed.store.tunnel_of_domain("b.example").await.unwrap().unwrap();
    assert_eq!((found.id, found.archived_at), (second.id, Some(at(8))));
    assert_eq!(bed.store.tunnel_of_domain("example").await.unwrap(), None);
}

#[tokio::test]
async fn lists_are_newest_first_and_of_one_workspace() {
    let bed = bed();
    let other = bed.store.create_workspace("other", at(0)).await.unwrap().id;
    for number in 0..5 {
        made(&bed, &format!("t{number}.example"), at(number)).await;
    }
    let foreign = bed
        .store
        .create_tunnel(&other, new("x.example"), 10, at(9))
        .await
        .unwrap();
    let third = bed.store.list_tunnels(&bed.ws, true, first(3)).await.unwrap().rows[2].clone();
    assert_eq!(third.domain, "t2.example");
    bed.store.archive_tunnel(&bed.ws, &third.id, at(10)).await.unwrap();
    let page = bed.store.list_tunnels(&bed.ws, false, first(3)).await.unwrap();
    let rest = bed
        .store
        .list_tunnels(&bed.ws, false, from(3, page.next.as_deref().unwrap()))
        .await
        .unwrap();
    let names: Vec<&str> = page.rows.iter().chain(&rest.rows).map(|r| r.domain.as_str()).collect();
    assert_eq!(names, ["t4.example", "t3.example", "t1.example", "t0.example"]);
    assert_eq!(rest.next, None);

    is_missing(bed.store.tunnel(&bed.ws, &foreign.id).await);
    is_missing(bed.store.archive_tunnel(&bed.ws, &foreign.id, at(11)).await);
    is_missing(bed.store.set_tunnel_paused(&bed.ws, &foreign.id, true, at(11)).await);
    is_missing(bed.store.tunnel_token(&bed.ws, &foreign.id).await);
    is_missing(bed.store.tunnel_usage(&bed.ws, &foreign.id).await);
    is_missing(bed.store.tunnel_rotations(&bed.ws, &foreign.id, 5).await);
    is_missing(
        bed.store
            .rotate_tunnel_token(&bed.ws, &foreign.id, token("y"), "me", None, at(11))
            .await,
    );
    is_missing(
        bed.store
            .create_tunnel_certificate(&bed.ws, &foreign.id, certificate(1, None), 2, at(11))
            .await,
    );
    is_missing(
        bed.store
            .list_tunnel_certificates(&bed.ws, &foreign.id, true, first(5))
            .await,
    );
    assert_eq!(bed.store.tunnel(&other, &foreign.id).await.unwrap(), foreign);
}

#[tokio::test]
async fn a_rotated_token_is_refused_at_once_and_an_archived_tunnel_admits_nobody() {
    let bed = bed();
    let tunnel = made(&bed, "a.example", at(1)).await;
    let admit = async |token: &str| bed.store.admit_to_tunnel(&tunnel.id, KeyHash::of(token)).await.unwrap();
    let admission = admit("a.example").await.unwrap();
    assert_eq!(
        (&admission.workspace_id, admission.generation, admission.paused),
        (&bed.ws, 1, false)
    );
    assert_eq!(admission.domain, "a.example");
    assert_eq!(admit("guess").await, Err(TunnelRefusal::Token));

    let kept = bed.store.tunnel_token(&bed.ws, &tunnel.id).await.unwrap();
    assert_eq!((kept.id, kept.sealed), (tunnel.token_id.clone(), b"elpmaxe.a".to_vec()));
    let fresh = token("second");
    let fresh_id = fresh.id.clone();
    let rotated = bed
        .store
        .rotate_tunnel_token(&bed.ws, &tunnel.id, fresh, "apikey_1", Some("lost".into()), at(2))
        .await
        .unwrap();
    assert_eq!((rotated.generation, &rotated.token_id), (2, &fresh_id));
    assert_eq!(admit("a.example").await, Err(TunnelRefusal::Token));
    assert_eq!(admit("second").await.unwrap().generation, 2);
    let rotations = bed.store.tunnel_rotations(&bed.ws, &tunnel.id, 5).await.unwrap();
    assert_eq!(rotations.len(), 1);
    assert_eq!(
        (rotations[0].rotated_by.as_str(), rotations[0].reason.as_deref()),
        ("apikey_1", Some("lost"))
    );

    let paused = bed
        .store
        .set_tunnel_paused(&bed.ws, &tunnel.id, true, at(3))
        .await
        .unwrap();
    assert_eq!(paused.paused_at, Some(at(3)));
    let again = bed
        .store
        .set_tunnel_paused(&bed.ws, &tunnel.id, true, at(4))
        .await
        .unwrap();
    assert_eq!(again, paused);
    assert!(admit("second").await.unwrap().paused);
    assert_eq!(
        bed.store.paused_tunnels().await.unwrap(),
        std::slice::from_ref(&tunnel.id)
    );
    let resumed = bed
        .store
        .set_tunnel_paused(&bed.ws, &tunnel.id, false, at(5))
        .await
        .unwrap();
    assert_eq!(resumed.paused_at, None);
    assert!(!admit("second").await.unwrap().paused);
    assert!(bed.store.paused_tunnels().await.unwrap().is_empty());

    bed.store.archive_tunnel(&bed.ws, &tunnel.id, at(6)).await.unwrap();
    assert_eq!(admit("second").await, Err(TunnelRefusal::Archived));
    is_conflict(bed.store.tunnel_token(&bed.ws, &tunnel.id).await.map(drop), "archived");
    is_conflict(
        bed.store
            .rotate_tunnel_token(&bed.ws, &tunnel.id, token("third"), "me", None, at(7))
            .await,
        "archived",
    );
    is_conflict(
        bed.store.set_tunnel_paused(&bed.ws, &tunnel.id, true, at(7)).await,
        "archived",
    );
    let nobody = bed
        .store
        .admit_to_tunnel(&TunnelId::fresh(), KeyHash::of("second"))
        .await;
    assert_eq!(nobody.unwrap(), Err(TunnelRefusal::Unknown));
}

#[tokio::test]
async fn two_authorities_at_most_are_trusted_and_only_while_they_are_valid() {
    let bed = bed();
    let store = &bed.store;
    let tunnel = made(&bed, "a.example", at(1)).await.id;
    let one = store
        .create_tunnel_certificate(&bed.ws, &tunnel, certificate(1, None), 2, at(2))
        .await
        .unwrap();
    is_conflict(
        store
            .create_tunnel_certificate(&bed.ws, &tunnel, certificate(1, None), 2, at(3))
            .await,
        one.id.as_str(),
    );
    let two = store
        .create_tunnel_certificate(&bed.ws, &tunnel, certificate(2, Some(at(100))), 2, at(3))
        .await
        .unwrap();
    is_conflict(
        store
            .create_tunnel_certificate(&bed.ws, &tunnel, certificate(3, None), 2, at(4))
            .await,
        "2 is the most",
    );
    assert_eq!(
        store.tunnel_authorities(&tunnel, at(99)).await.unwrap(),
        [vec![1; 3], vec![2; 3]]
    );
    assert_eq!(store.tunnel_authorities(&tunnel, at(100)).await.unwrap(), [vec![1; 3]]);

    let archived = store
        .archive_tunnel_certificate(&bed.ws, &tunnel, &one.id, at(5))
        .await
        .unwrap();
    let again = store
        .archive_tunnel_certificate(&bed.ws, &tunnel, &one.id, at(6))
        .await
        .unwrap();
    assert_eq!((archived.archived_at, &again), (Some(at(5)), &archived));
    // One that was archived can come back, as another registration.
    let back = store
        .create_tunnel_certificate(&bed.ws, &tunnel, certificate(1, None), 2, at(7))
        .await
        .unwrap();
    assert_ne!(back.id, one.id);
    let listed = store
        .list_tunnel_certificates(&bed.ws, &tunnel, false, first(5))
        .await
        .unwrap();
    assert_eq!(listed.rows, [back.clone(), two.clone()]);
    let all = store
        .list_tunnel_certificates(&bed.ws, &tunnel, true, first(5))
        .await
        .unwrap();
    assert_eq!(all.rows.len(), 3);
    assert_eq!(
        store.tunnel_certificate(&bed.ws, &tunnel, &one.id).await.unwrap(),
        archived
    );

    let other = made(&bed, "b.example", at(8)).await.id;
    is_missing(store.tunnel_certificate(&bed.ws, &other, &two.id).await);
    is_missing(store.archive_tunnel_certificate(&bed.ws, &other, &two.id, at(9)).await);
    store.archive_tunnel(&bed.ws, &tunnel, at(10)).await.unwrap();
    assert!(store.tunnel_authorities(&tunnel, at(11)).await.unwrap().is_empty());
    let two = store.tunnel_certificate(&bed.ws, &tunnel, &two.id).await.unwrap();
    assert_eq!(two.archived_at, Some(at(10)));
    is_conflict(
        store
            .create_tunnel_certificate(&bed.ws, &tunnel, certificate(4, None), 2, at(12))
            .await,
        "archived",
    );
}

#[tokio::test]
async fn what_passed_is_added_up_over_restarts() {
    let bed = bed();
    let tunnel = made(&bed, "a.example", at(1)).await.id;
    let delta = |route: &str, calls, bytes_in, bytes_out| UsageDelta {
        tunnel_id: tunnel.clone(),
        route: route.into(),
        calls,
        bytes_in,
        bytes_out,
    };
    let (store, dir, ws) = (bed.store, bed.dir, bed.ws);
    store
        .add_tunnel_usage(vec![delta("wiki", 1, 10, 20), delta("db", 2, 1, 1)], at(2))
        .await
        .unwrap();
    store.close().await;
    drop(store);
    let store = outwork_store::Store::open(outwork_store::Options::new(dir.path())).unwrap();
    store
        .add_tunnel_usage(vec![delta("wiki", 4, 5, 6)], at(3))
        .await
        .unwrap();
    store.add_tunnel_usage(Vec::new(), at(4)).await.unwrap();
    let usage = store.tunnel_usage(&ws, &tunnel).await.unwrap();
    let seen: Vec<_> = usage
        .iter()
        .map(|u| (u.route.as_str(), u.calls, u.bytes_in, u.bytes_out, u.updated_at))
        .collect();
    assert_eq!(seen, [("db", 2, 1, 1, at(2)), ("wiki", 5, 15, 26, at(3))]);
}

#[tokio::test]
async fn a_workloads_token_is_found_by_its_hash_until_it_is_forgotten() {
    let bed = bed();
    let keep = async |text: &str, expires_at| {
        let new = NewFederatedToken {
            hash: KeyHash::of(text),
            workspace_id: bed.ws.clone(),
            rule_id: "fdrl_ci".parse::<FederationRuleId>().unwrap(),
            subject: "repo:a/b".into(),
            scope: "workspace:manage_tunnels".into(),
            expires_at,
        };
        bed.store.add_federated_token(new, at(1)).await.unwrap();
    };
    keep("short", at(10)).await;
    keep("long", at(100)).await;
    let find = async |text: &str| bed.store.find_credential(KeyHash::of(text), at(50)).await.unwrap();
    let Some(Credential::Federated(found)) = find("short").await else {
        panic!("it was not found");
    };
    assert_eq!((found.workspace_id, found.expires_at), (bed.ws.clone(), at(10)));
    assert_eq!(found.subject, "repo:a/b");
    assert_eq!(bed.store.prune_federated_tokens(at(50), 10).await.unwrap(), 1);
    assert!(find("short").await.is_none() && find("long").await.is_some());
    assert!(find("other").await.is_none());
}
