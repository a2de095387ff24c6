//! Pulls from registries that behave, that ask who is there, and that lie.

use std::time::Duration;

use base64::Engine as _;
use outwork_image::{Digest, Error, ImageDigest, Images, Options, Platform, Reference};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::make::{Arena, INDEX, Layer, Made, Tar, get};
use crate::serve::{Answer, Door, Server};

fn image() -> Made {
    Made::of(vec![
        Layer::gzip(Tar::default().dir("etc").file("etc/name", b"base").end()),
        Layer::zstd(Tar::default().file("etc/more", b"more").end()),
        Layer::plain(Tar::default().file("etc/.wh.name", b"").end()),
        Layer::gzip(Tar::default().file("top", b"top").end()),
    ])
}

fn with_password(mut options: Options, host: &str) -> Options {
    options.credentials.add(host, "user", SecretString::from("pass"));
    options
}

fn basic() -> String {
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode("user:pass")
    )
}

#[tokio::test]
async fn a_pinned_image_is_pulled_once() {
    let (arena, server, made) = (Arena::new(), Server::start().await, image());
    let reference = server.put(&made);
    let images = Images::open(arena.options()).unwrap();
    let first = get(&images, &reference).await.unwrap();
    assert_eq!(first.digest, ImageDigest::Manifest(made.manifest));
    assert_eq!(first.layers.len(), 4);
    assert_eq!(std::fs::read(first.layers[0].join("top")).unwrap(), b"top");
    assert_eq!(server.asked().len(), 6, "a manifest, a configuration, four layers");
    assert!(server.asked()[0].accept.contains(INDEX));
    // From now on without the registry, by another process too.
    drop(server);
    let again = get(&Images::open(arena.options()).unwrap(), &reference).await.unwrap();
    assert_eq!(again.layers, first.layers);
    arena.assert_untouched();
}

#[tokio::test]
async fn an_unpinned_image_is_refused_unless_allowed() {
    let (arena, server, made) = (Arena::new(), Server::start().await, image());
    server.put(&made);
    for tag in [":1", ""] {
        let error = get(
            &Images::open(arena.options()).unwrap(),
            &format!("{}/team/app{tag}", server.host),
        )
        .await
        .unwrap_err();
        assert!(
            matches!(&error, Error::Unpinned { .. }) && error.to_string().contains("@sha256:"),
            "{error}"
        );
    }
    assert!(server.asked().is_empty(), "a refused reference asks nobody");
    let mut options = arena.options();
    options.allow_unpinned = true;
    let images = Images::open(options).unwrap();
    let pulled = get(&images, &format!("{}/team/app:1", server.host)).await.unwrap();
    assert_eq!(
        pulled.digest,
        ImageDigest::Manifest(made.manifest),
        "what the tag meant is said"
    );
}

#[tokio::test]
async fn an_index_leads_to_this_machines_image() {
    let (arena, server, ours) = (Arena::new(), Server::start().await, image());
    server.put(&ours);
    let here = Platform::here();
    let theirs = Made::on(
        vec![Layer::plain(Tar::default().end())],
        &Platform {
            os: "linux".into(),
            architecture: "s390x".into(),
        },
    );
    let index = Made::index(&[
        (&theirs, Some(("linux", "s390x"))),
        (&ours, Some((&here.os, &here.architecture))),
    ]);
    let digest = Digest::of(&index);
    server.set(format!("/v2/team/app/manifests/{digest}"), Answer::Bytes(INDEX, index));
    let images = Images::open(arena.options()).unwrap();
    let pulled = get(&images, &server.reference(&digest)).await.unwrap();
    assert_eq!(pulled.digest, ImageDigest::Manifest(ours.manifest));
}

#[tokio::test]
async fn tokens_are_fetched_with_and_without_credentials() {
    for password in [false, true] {
        let (arena, server, made) = (Arena::new(), Server::start().await, image());
        let reference = server.put(&made);
        server.door(Door::Token {
            realm: format!("http://{}/token?x=1", server.host),
            token: "t0ken".into(),
        });
        server.set(
            "/token",
            Answer::Bytes("application/json", br#"{"access_token":"t0ken"}"#.to_vec()),
        );
        let options = if password {
            with_password(arena.options(), &server.host)
        } else {
            arena.options()
        };
        get(&Images::open(options).unwrap(), &reference).await.unwrap();
        let tokens: Vec<_> = server
            .asked()
            .into_iter()
            .filter(|asked| asked.path.starts_with("/token"))
            .collect();
        assert_eq!(tokens.len(), 1, "one token serves all requests");
        assert!(tokens[0].path.contains("x=1") && tokens[0].path.contains("service=test"));
        assert!(
            tokens[0].path.contains("scope=repository%3Ateam%2Fapp%3Apull"),
            "the scope is ours: {}",
            tokens[0].path
        );
        assert_eq!(tokens[0].authorization, password.then(basic));
    }
}

#[tokio::test]
async fn basic_credentials() {
    let (arena, server, made) = (Arena::new(), Server::start().await, image());
    let reference = server.put(&made);
    server.door(Door::Basic { expected: basic() });
    let error = get(&Images::open(arena.options()).unwrap(), &reference)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("credentials file"), "{error}");
    let images = Images::open(with_password(arena.options(), &server.host)).unwrap();
    get(&images, &reference).await.unwrap();
    // Wrong ones end at once, and are not in the error.
    let (arena, error) = (Arena::new(), {
        server.door(Door::Basic {
            expected: "Basic other".into(),
        });
        let arena = Arena::new();
        let images = Images::open(with_password(arena.options(), &server.host)).unwrap();
        get(&images, &reference).await.unwrap_err().to_string()
    });
    assert!(
        error.contains("not accepted") && !error.contains("pass:") && !error.contains(&basic()[6..]),
        "{error}"
    );
    arena.assert_untouched();
}

#[tokio::test]
async fn a_redirect_to_another_host_gets_no_authorization() {
    let (arena, server, cdn, made) = (Arena::new(), Server::start().await, Server::start().await, image());
    let reference = server.put(&made);
    server.door(Door::Basic { expected: basic() });
    for layer in 0..made.layers.len() {
        let path = Server::blob(&made, layer);
        cdn.set(
            &path,
            Answer::Bytes("application/octet-stream", made.layers[layer].blob.clone()),
        );
        server.set(
            &path,
            Answer::Redirect(format!("http://{}{path}?signature=s3cret", cdn.host)),
        );
    }
    let images = Images::open(with_password(arena.options(), &server.host)).unwrap();
    get(&images, &reference).await.unwrap();
    assert_eq!(cdn.asked().len(), 4);
    assert!(
        cdn.asked().iter().all(|asked| asked.authorization.is_none()),
        "{:?}",
        cdn.asked()
    );
    // Nor when the other host asks for it.
    cdn.door(Door::Basic { expected: basic() });
    let arena = Arena::new();
    let images = Images::open(with_password(arena.options(), &server.host)).unwrap();
    let error = get(&images, &reference).await.unwrap_err();
    assert!(
        error.to_string().contains("401") && !error.to_string().contains("s3cret"),
        "{error}"
    );
    assert!(
        cdn.asked().iter().all(|asked| asked.authorization.is_none()),
        "{:?}",
        cdn.asked()
    );
    arena.assert_untouched();
}

#[tokio::test]
async fn credentials_do_not_go_to_a_foreign_token_service() {
    let (arena, server, made) = (Arena::new(), Server::start().await, image());
    let reference = server.put(&made);
    let images = Images::open(with_password(arena.options(), &server.host)).unwrap();
    for (realm, says) in [
        ("https://tokens.invalid/token".to_owned(), "another domain"),
        ("http://tokens.invalid/token".to_owned(), "plain HTTP"),
        ("http://169.254.169.254/token".to_owned(), "plain HTTP"),
        ("file:///etc/passwd".to_owned(), "neither"),
        (format!("http://x:y@{}/token", server.host), "user in it"),
        ("not an address".to_owned(), "not an address"),
    ] {
        server.door(Door::Token {
            realm,
            token: "t".into(),
        });
        let error = get(&images, &reference).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    arena.assert_untouched();
}

#[tokio::test]
async fn redirects_end() {
    let (arena, server, made) = (Arena::new(), Server::start().await, image());
    let reference = server.put(&made);
    let images = Images::open(arena.options()).unwrap();
    let path = Server::blob(&made, 0);
    for (to, says) in [
        (path.clone(), "more than 5 times"),
        ("http://plain.invalid/".into(), "plain HTTP"),
        ("file:///etc/passwd".into(), "neither HTTPS nor HTTP"),
        ("http://u:p@127.0.0.1/".into(), "user in it"),
    ] {
        server.set(&path, Answer::Redirect(to));
        let error = get(&images, &reference).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(arena.kept_layers(), 0);
    arena.assert_untouched();
}

#[tokio::test]
async fn lies_about_content_are_refused() {
    let made = image();
    let other = Tar::default().file("evil", b"evil").end();
    let blob = &made.layers[1].blob;
    let mut longer = blob.clone();
    longer.push(0);
    let mut flipped = blob.clone();
    flipped[10] ^= 1;
    for (case, answer) in [
        Answer::Bytes("x/y", other.clone()),
        Answer::Bytes("x/y", blob[..blob.len() - 1].to_vec()),
        Answer::Bytes("x/y", longer),
        Answer::Bytes("x/y", flipped),
        Answer::Bytes("x/y", Vec::new()),
        Answer::Torn(blob[..10].to_vec()),
        Answer::Endless,
        Answer::Status(404),
        Answer::Status(500),
        Answer::Status(206),
    ]
    .into_iter()
    .enumerate()
    {
        let (arena, server) = (Arena::new(), Server::start().await);
        let reference = server.put(&made);
        server.set(Server::blob(&made, 1), answer);
        let images = Images::open(arena.small()).unwrap();
        let error = get(&images, &reference).await.expect_err("a lie was believed");
        let sorted = matches!(
            error,
            Error::Mismatch { .. } | Error::Size { .. } | Error::Network { .. } | Error::Registry { .. }
        );
        assert!(sorted, "{case}: {error}");
        assert!(arena.kept_layers() <= 1, "only the layer below may stay");
        arena.assert_untouched();
        // And when the registry is honest again, the image comes.
        server.put(&made);
        get(&images, &reference).await.unwrap();
    }
}

#[tokio::test]
async fn lies_about_documents_are_refused() {
    let made = image();
    let manifest = format!("/v2/team/app/manifests/{}", made.manifest);
    let config = format!("/v2/team/app/blobs/{}", made.config);
    for path in [manifest, config] {
        for answer in [
            Answer::Bytes("x/y", b"{}".to_vec()),
            Answer::Bytes("x/y", vec![b' '; 65 << 10]),
            Answer::Endless,
            Answer::Torn(b"{".to_vec()),
        ] {
            let (arena, server) = (Arena::new(), Server::start().await);
            let reference = server.put(&made);
            server.set(&path, answer);
            let error = get(&Images::open(arena.small()).unwrap(), &reference)
                .await
                .expect_err("a lie was believed");
            assert!(
                matches!(
                    error,
                    Error::Mismatch { .. } | Error::TooLarge { .. } | Error::Network { .. }
                ),
                "{error}"
            );
            assert_eq!(arena.kept_layers(), 0);
            arena.assert_untouched();
        }
    }
    // An endless token.
    let (arena, server) = (Arena::new(), Server::start().await);
    let reference = server.put(&made);
    server.door(Door::Token {
        realm: format!("http://{}/token", server.host),
        token: "t".into(),
    });
    for answer in [
        Answer::Endless,
        Answer::Bytes("x/y", b"{}".to_vec()),
        Answer::Bytes("x/y", br#"{"token":"a\nb"}"#.to_vec()),
        Answer::Status(403),
    ] {
        server.set("/token", answer);
        let error = get(&Images::open(arena.small()).unwrap(), &reference)
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::TooLarge { .. } | Error::Registry { .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_silent_registry_meets_the_deadline_and_a_cancel() {
    let (arena, server, made) = (Arena::new(), Server::start().await, image());
    let reference = server.put(&made);
    server.set(Server::blob(&made, 2), Answer::Silent);
    let mut options = arena.options();
    options.deadline = Duration::from_millis(300);
    assert!(matches!(
        get(&Images::open(options).unwrap(), &reference).await,
        Err(Error::Deadline { .. })
    ));
    let (images, cancel) = (Images::open(arena.options()).unwrap(), CancellationToken::new());
    let parsed = Reference::parse(&reference).unwrap();
    // How far the first one came depends on the machine.
    let before = server.asked().len();
    let asked = async {
        while !server
            .asked()
            .iter()
            .skip(before)
            .any(|asked| asked.path == Server::blob(&made, 2))
        {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(images.get(&parsed, &cancel), asked);
    assert!(matches!(result, Err(Error::Cancelled)));
}

#[tokio::test]
async fn plain_http_is_for_this_machine_or_named_hosts() {
    let arena = Arena::new();
    let images = Images::open(arena.options()).unwrap();
    // A name that resolves to nothing: TLS or not is not seen, but the error is ours and names no address.
    let reference = format!("registry.invalid/app@{}", Digest::of(b""));
    let error = get(&images, &reference).await.unwrap_err();
    assert!(matches!(&error, Error::Network { .. }), "{error}");
}
