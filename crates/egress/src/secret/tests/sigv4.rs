//! AWS signatures. The expected ones were computed independently; those for the secrets that AWS publishes in its
//! documentation are also the ones that AWS publishes for these requests.

use super::*;
use http::StatusCode;

/// The secret of the IAM examples, and that of the S3 examples.
const IAM: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const S3: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const INSIDE: &str = "pQrStUvWxYzA1B2C3D4E5F6G7H8J9KAbCdEfGhIj";
const ID: (&str, &str) = ("AKIAIOSFODNN7EXAMPLE", "AKIAPLACEHOLDERVALUE");
const TOKEN: (&str, &str) = ("real-session-token-0123456789", "fake-session-token-9876543210");

fn keys(secret: &str, hosts: &[&str]) -> SecretSet {
    let mut id = spec("id", ID, hosts, false);
    id.kind = Kind::AwsKeyId;
    let mut key = spec("key", (secret, INSIDE), hosts, false);
    key.kind = Kind::AwsSecretKey {
        key_id: AwsKeyId::Spec("id".into()),
    };
    SecretSet::new(vec![id, key, spec("token", TOKEN, hosts, false)]).unwrap()
}

fn authorization(id: &str, scope: &str, headers: &str, signature: &str) -> String {
    format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={headers}, Signature={signature}")
}

fn send(set: &SecretSet, host: &str, parts: &mut Parts, body: &[u8]) -> Result<Vec<u8>, Blocked> {
    let to = Destination::https(host, 443);
    let mut rewriter = set.rewrite_head(&to, parts, &Limits::default())?.rewriter;
    let mut out = Vec::new();
    for chunk in body.chunks(1000) {
        out.extend(rewriter.push(chunk)?);
    }
    out.extend(rewriter.finish(parts)?);
    Ok(out)
}

const IAM_HOST: &str = "iam.amazonaws.com";
const IAM_SCOPE: &str = "20150830/us-east-1/iam/aws4_request";
const IAM_SIGNED: &str = "content-type;host;x-amz-date";

fn list_users(signature: &str) -> Parts {
    let value = authorization(ID.1, IAM_SCOPE, IAM_SIGNED, signature);
    head(
        "GET",
        "/?Version=2010-05-08&Action=ListUsers",
        &[
            ("host", IAM_HOST),
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("x-amz-date", "20150830T123600Z"),
            ("authorization", &value),
        ],
    )
}

#[test]
fn a_request_is_signed_again() {
    let set = keys(IAM, &["*.amazonaws.com"]);
    let mut parts = list_users("d1c93f346741b656caa52da19dca1697b2fc80469bb5c54840a3fdd84f8b9390");
    let to = Destination::https(IAM_HOST, 443);
    let outcome = set.rewrite_head(&to, &mut parts, &Limits::default()).unwrap();
    let signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
    assert_eq!(
        parts.headers["authorization"],
        authorization(ID.0, IAM_SCOPE, IAM_SIGNED, signature)
    );
    assert!(parts.headers["authorization"].is_sensitive());
    let names: Vec<&str> = outcome.uses.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(names, ["id", "key"]);
    assert!(
        outcome
            .uses
            .iter()
            .all(|u| u.location == Location::Signature && u.substituted)
    );
}

#[test]
fn a_signature_that_the_key_did_not_make_is_refused() {
    let set = keys(IAM, &["*.amazonaws.com"]);
    let blocked = send(&set, IAM_HOST, &mut list_users(&"0".repeat(64)), b"").unwrap_err();
    assert_eq!(
        (blocked.name.as_str(), blocked.status),
        ("key", StatusCode::BAD_REQUEST)
    );
    let right = "d1c93f346741b656caa52da19dca1697b2fc80469bb5c54840a3fdd84f8b9390";
    let blocked = send(&set, "evil.example.com", &mut list_users(right), b"").unwrap_err();
    assert!(matches!(blocked.reason, Reason::Foreign { .. }));
    let mut other = list_users(right);
    let value = other.headers["authorization"]
        .to_str()
        .unwrap()
        .replace("HMAC-SHA256", "ECDSA-P256-SHA256");
    other.headers.insert("authorization", value.parse().unwrap());
    assert!(matches!(
        send(&set, IAM_HOST, &mut other, b"").unwrap_err().reason,
        Reason::Signature { .. }
    ));
    // Somebody else's key is none of ours.
    let mut other = list_users(right);
    let value = other.headers["authorization"]
        .to_str()
        .unwrap()
        .replace(ID.1, "AKIASOMEBODYELSESKEY");
    other.headers.insert("authorization", value.parse().unwrap());
    send(&set, IAM_HOST, &mut other, b"").unwrap();
    assert_eq!(other.headers["authorization"], value);
}

#[test]
fn a_body_that_is_signed_without_a_header_is_held_until_its_hash_is_known() {
    const HOST: &str = "dynamodb.eu-west-1.amazonaws.com";
    let set = keys(IAM, &[HOST]);
    let scope = "20150830/eu-west-1/dynamodb/aws4_request";
    let signed = "host;x-amz-date;x-amz-security-token";
    let inside = "d0c268fec78fc1b0ec881363155463442b36d906befac1a3d6d66079d22c8524";
    let value = authorization(ID.1, scope, signed, inside);
    let headers = [
        ("host", HOST),
        ("x-amz-date", "20150830T123600Z"),
        ("x-amz-security-token", TOKEN.1),
        ("authorization", &value),
    ];
    let body = br#"{"TableName":"things"}"#;
    let mut parts = head("POST", "/", &headers);
    assert_eq!(send(&set, HOST, &mut parts, body).unwrap(), body);
    let outside = "afb231025c81a11bf08da08024541ddab52ff12d070103d3c9ea92d233935023";
    assert_eq!(
        parts.headers["authorization"],
        authorization(ID.0, scope, signed, outside)
    );
    assert_eq!(parts.headers["x-amz-security-token"], TOKEN.0);
    let blocked = send(&set, HOST, &mut head("POST", "/", &headers), b"another body").unwrap_err();
    assert!(matches!(blocked.reason, Reason::Signature { .. }));
    let long = Limits {
        signed_body: 10,
        ..Limits::default()
    };
    let to = Destination::https(HOST, 443);
    let mut rewriter = set
        .rewrite_head(&to, &mut head("POST", "/", &headers), &long)
        .unwrap()
        .rewriter;
    assert_eq!(rewriter.push(body).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[test]
fn paths_are_signed_as_the_client_signs_them() {
    const HOST: &str = "lambda.eu-west-1.amazonaws.com";
    let set = keys(IAM, &[HOST]);
    let scope = "20150830/eu-west-1/lambda/aws4_request";
    let inside = "313782e94483cd5ac4911d18f7f5af9fc9a4c8762cece5c375fddfb1d41d4fff";
    let value = authorization(ID.1, scope, "host;x-amz-date", inside);
    // Over HTTP/2 the host is in the address.
    let uri = format!("https://{HOST}/2015-03-31/functions/a%20b/");
    let mut parts = head(
        "GET",
        &uri,
        &[("x-amz-date", "20150830T123600Z"), ("authorization", &value)],
    );
    send(&set, HOST, &mut parts, b"").unwrap();
    let outside = "efe8be0a0263657ca8a9bc2d005cc0d204d7047e097ce76784e44b885b544b0e";
    assert_eq!(
        parts.headers["authorization"],
        authorization(ID.0, scope, "host;x-amz-date", outside)
    );
}

const S3_SCOPE: &str = "20130524/us-east-1/s3/aws4_request";
const BUCKET: &str = "examplebucket.s3.amazonaws.com";

#[test]
fn a_body_whose_hash_is_in_a_header_keeps_it() {
    let set = keys(S3, &["*.s3.amazonaws.com"]);
    let signed = "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class";
    let inside = "deebabf6eef9adf777a88ca0d0336d488764906e8b4bd33b479212c9fd20de84";
    let value = authorization(ID.1, S3_SCOPE, signed, inside);
    let hash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    let headers = [
        ("host", BUCKET),
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", hash),
        ("authorization", &value),
    ];
    let mut parts = head("PUT", "/test%24file.text", &headers);
    assert_eq!(
        send(&set, BUCKET, &mut parts, b"Welcome to Amazon S3.").unwrap(),
        b"Welcome to Amazon S3."
    );
    let outside = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd";
    assert_eq!(
        parts.headers["authorization"],
        authorization(ID.0, S3_SCOPE, signed, outside)
    );
    assert_eq!(parts.headers["x-amz-content-sha256"], hash);
    // The secret key itself is never sent, not even to a host that its credential names.
    let blocked = send(&set, BUCKET, &mut head("PUT", "/", &[("x-key", INSIDE)]), b"").unwrap_err();
    assert!(matches!(blocked.reason, Reason::Misplaced { .. }));
}

#[test]
fn an_address_that_was_signed_is_signed_again() {
    let set = keys(S3, &["*.s3.amazonaws.com"]);
    let query = |id: &str, signature: &str| {
        format!(
            "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={id}%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
        )
    };
    let inside = query(ID.1, "11e1495b907df4f3da8fff1c7b8cf96cb45322bd4f0c234c073c9892d06f6de3");
    let mut parts = head("GET", &inside, &[("host", BUCKET)]);
    send(&set, BUCKET, &mut parts, b"").unwrap();
    let outside = query(ID.0, "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
    assert_eq!(parts.uri.to_string(), outside);
}

fn chunks(signatures: &[&str], data: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for (signature, data) in signatures.iter().zip(data) {
        out.extend(format!("{:x};chunk-signature={signature}\r\n", data.len()).bytes());
        out.extend_from_slice(data);
        if !data.is_empty() {
            out.extend(b"\r\n");
        }
    }
    out
}

#[test]
fn chunks_are_signed_again() {
    const HOST: &str = "s3.amazonaws.com";
    let set = keys(S3, &[HOST]);
    let signed = "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;\
                  x-amz-storage-class";
    let inside = [
        "1d9cd66f7bdc66c6bdcf15b4b240cd287c599689bba269b8f42cce36a45ba25d",
        "ef95dd11809aef4ffbf1b35882d44d89ec8666d2a02af2232b749b63bafde8c8",
        "b33a85b96d11602f4e2107c356b40353a73362d330fe0c4de461b772f1ffac25",
        "ac506925ed70af7ebc550370cf85d91b69fb12a7dcf1da9e3f8433e91b726d20",
    ];
    let outside = [
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ];
    let (long, short) = (vec![b'a'; 65536], vec![b'a'; 1024]);
    let data: [&[u8]; 3] = [&long, &short, b""];
    let end = |mut body: Vec<u8>| {
        body.extend(b"\r\n");
        body
    };
    let value = authorization(ID.1, S3_SCOPE, signed, inside[0]);
    let headers = [
        ("host", HOST),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("content-length", "66824"),
        ("authorization", &value),
    ];
    let request = || head("PUT", "/examplebucket/chunkObject.txt", &headers);
    let mut parts = request();
    let body = end(chunks(&inside[1..], &data));
    assert_eq!(body.len(), 66824);
    let out = send(&set, HOST, &mut parts, &body).unwrap();
    assert!(out == end(chunks(&outside[1..], &data)));
    assert_eq!(
        parts.headers["authorization"],
        authorization(ID.0, S3_SCOPE, signed, outside[0])
    );
    let mut changed = body.clone();
    changed[1000] = b'b';
    assert!(matches!(
        send(&set, HOST, &mut request(), &changed).unwrap_err().reason,
        Reason::Signature { .. }
    ));
    for wrong in [
        &body[..body.len() - 100],
        b"no chunk at all\r\n",
        b"ffffffffff;chunk-signature=\r\n",
    ] {
        assert!(send(&set, HOST, &mut request(), wrong).is_err());
    }
}

#[test]
fn signed_trailers_are_signed_again() {
    const HOST: &str = "s3.amazonaws.com";
    let set = keys(S3, &[HOST]);
    let signed = "host;x-amz-content-sha256;x-amz-date;x-amz-trailer";
    let inside = authorization(
        ID.1,
        S3_SCOPE,
        signed,
        "1ca958f6b2d4310f4baf8270286d35dc0ed4d25079da481d4c7f48e5fa18b438",
    );
    let headers = [
        ("host", HOST),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-trailer", "x-amz-checksum-crc32c"),
        ("authorization", &inside),
    ];
    let body = |signatures: [&str; 2], trailer: &str| {
        let mut body = chunks(&signatures, &[b"hello", b""]);
        body.extend(format!("x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:{trailer}\r\n\r\n").bytes());
        body
    };
    let mut parts = head("PUT", "/b/k", &headers);
    let sent = body(
        [
            "6284c19f9e994d9571a2a582c36444febb0cf9708fa6d2f03e080d2680dad84a",
            "736ac12235e7289018d0b11a3ea7a5b19091ebbcfbe62657561be351c8abeea0",
        ],
        "0137679a8308fd2a506030c78b94af079111cec1e17febce17e397e820433d8f",
    );
    let expected = body(
        [
            "19d1fbc8be2ecce379c55ecbaa2f0707dc58e9a9574227710b612ab76e97983b",
            "ca732a2babac38e04d51dbf8056caf9d2639f0ecf4ecdc7ea9652bb182e40a90",
        ],
        "3ebf41cc1c79a261d1cef6784c595992d2e182f3618a9368af86edb3d2d1b41f",
    );
    assert_eq!(
        String::from_utf8(send(&set, HOST, &mut parts, &sent).unwrap()).unwrap(),
        String::from_utf8(expected).unwrap()
    );
}
