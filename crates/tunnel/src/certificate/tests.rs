use rcgen::{BasicConstraints, CustomExtension, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use secrecy::ExposeSecret;

use super::*;

fn now() -> Time {
    Time::now()
}

/// An authority's parameters, after a change.
fn params(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    valid_for(&mut params, now(), Duration::from_secs(86_400));
    change(&mut params);
    params
}

fn pem(change: impl FnOnce(&mut CertificateParams)) -> String {
    params(change).self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

/// An authority without rcgen's own CA extensions, so that each can be left out or changed.
fn bare(extensions: Vec<CustomExtension>) -> String {
    pem(|params| {
        params.is_ca = IsCa::NoCa;
        params.key_usages.clear();
        params.custom_extensions = extensions;
    })
}

fn extension(oid: &[u64], critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

const CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const USAGE: &[u64] = &[2, 5, 29, 15];
const SUBJECT_KEY: &[u64] = &[2, 5, 29, 14];
const CA_TRUE: &[u8] = &[0x30, 0x03, 0x01, 0x01, 0xff];
const CERT_SIGN: &[u8] = &[0x03, 0x02, 0x02, 0x04];
const KEY_ID: &[u8] = &[0x04, 0x04, 1, 2, 3, 4];

type Expected = fn(&AuthorityError) -> bool;

#[test]
fn the_rules_of_an_authority() {
    let constraints = || extension(CONSTRAINTS, true, CA_TRUE);
    let usage = || extension(USAGE, true, CERT_SIGN);
    let subject_key = || extension(SUBJECT_KEY, false, KEY_ID);
    let good = pem(|_| {});
    let day = Duration::from_secs(86_400);
    let at = |days: i64| now().plus_seconds(days * 86_400);

    let cases: Vec<(&str, String, Expected)> = vec![
        ("too long", format!("{good}{}", " ".repeat(MAX_PEM)), |e| {
            matches!(e, AuthorityError::TooLong(_))
        }),
        (
            "with a key",
            good.clone() + &KeyPair::generate().unwrap().serialize_pem(),
            |e| *e == AuthorityError::PrivateKey,
        ),
        (
            "with an encrypted key",
            good.clone() + "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
            |e| *e == AuthorityError::PrivateKey,
        ),
        ("two", good.clone() + &pem(|_| {}), |e| *e == AuthorityError::Several(2)),
        ("none", "hello".into(), |e| *e == AuthorityError::NoCertificate),
        ("another object", good.replace("CERTIFICATE", "PUBLIC KEY"), |e| {
            *e == AuthorityError::NoCertificate
        }),
        (
            "cut",
            good.lines()
                .take(4)
                .chain(good.lines().last())
                .collect::<Vec<_>>()
                .join("\n"),
            |e| *e == AuthorityError::Malformed,
        ),
        ("a server's", pem(|p| p.is_ca = IsCa::ExplicitNoCa), |e| {
            *e == AuthorityError::NotAuthority
        }),
        ("no constraints", bare(vec![usage(), subject_key()]), |e| {
            *e == AuthorityError::NotAuthority
        }),
        (
            "not critical",
            bare(vec![extension(CONSTRAINTS, false, CA_TRUE), usage(), subject_key()]),
            |e| *e == AuthorityError::NotCritical,
        ),
        ("no key id", bare(vec![constraints(), usage()]), |e| {
            *e == AuthorityError::NoSubjectKeyId
        }),
        ("no usage", bare(vec![constraints(), subject_key()]), |e| {
            *e == AuthorityError::NoKeyCertSign
        }),
        (
            "other usage",
            pem(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
            |e| *e == AuthorityError::NoKeyCertSign,
        ),
        ("for later", pem(|p| valid_for(p, at(9), day)), |e| {
            matches!(e, AuthorityError::NotYetValid(_))
        }),
        ("expired", pem(|p| valid_for(p, at(-9), day)), |e| {
            matches!(e, AuthorityError::Expired(_))
        }),
        ("short RSA", RSA_1024.into(), |e| *e == AuthorityError::RsaSize(1024)),
        ("SHA-1", RSA_SHA1.into(), |e| *e == AuthorityError::WeakSignature),
        (
            "Ed25519",
            params(|_| {})
                .self_signed(&KeyPair::generate_for(&PKCS_ED25519).unwrap())
                .unwrap()
                .pem(),
            |e| *e == AuthorityError::KeyKind,
        ),
    ];
    for (name, text, expected) in cases {
        let error = Authority::parse(&text, now()).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
        assert!(error.to_string().len() > 30, "{name}: the error says what to change");
    }
    // What the cases have left out makes a good one.
    Authority::parse(&bare(vec![constraints(), usage(), subject_key()]), now()).unwrap();
}

#[test]
fn good_authorities_are_taken() {
    let p384 = params(|_| {})
        .self_signed(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap())
        .unwrap()
        .pem();
    for (name, text) in [("P-256", pem(|_| {})), ("P-384", p384), ("RSA 2048", RSA_2048.into())] {
        let authority = Authority::parse(&text, now()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(authority.fingerprint, fingerprint(&authority.der));
        assert_eq!(authority.fingerprint.len(), 64);
        assert_eq!(Some(authority.expires_at), expires_at(&text));
        assert!(authority.expires_at > now());
    }
}

#[test]
fn what_is_made_keeps_the_rules_of_the_reference() {
    let made = make_authority("tunnel authority", now()).unwrap();
    let authority = Authority::parse(&made.certificate_pem, now()).unwrap();
    assert_eq!(&authority, made.authority());
    let years = authority.expires_at.seconds_since(now()) / 86_400.0 / 365.0;
    assert!((4.99..5.01).contains(&years), "{years}");

    let server = make_server_certificate(&made, "x1.tunnel.example", SERVER_LIFETIME, now()).unwrap();
    let days = server.expires_at.seconds_since(now()) / 86_400.0;
    assert!((89.9..90.1).contains(&days), "{days}");
    assert_eq!(expires_at(&server.certificate_pem), Some(server.expires_at));
    let der = CertificateDer::from_pem_slice(server.certificate_pem.as_bytes()).unwrap();
    assert_eq!(authority_key_id(&der), subject_key_id(&authority.der));
    assert!(subject_key_id(&der).is_some());
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    assert!(parsed.extended_key_usage().unwrap().unwrap().value.server_auth);
    let names = parsed
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names
        .iter();
    let names: Vec<_> = names.map(|name| name.to_string()).collect();
    assert_eq!(names, ["DNSName(*.x1.tunnel.example)", "DNSName(x1.tunnel.example)"]);
    assert!(Authority::parse(&server.certificate_pem, now()).is_err());
}

#[test]
fn an_authority_is_read_back_and_a_foreign_key_is_refused() {
    let made = make_authority("one", now()).unwrap();
    let other = make_authority("two", now()).unwrap();
    let again = MadeAuthority::from_pem(made.certificate_pem.clone(), made.key_pem.clone(), now()).unwrap();
    assert!(make_server_certificate(&again, "a.example", SERVER_LIFETIME, now()).is_ok());
    assert!(matches!(
        MadeAuthority::from_pem(made.certificate_pem.clone(), other.key_pem.clone(), now()),
        Err(MakeError::OtherKey)
    ));
    assert!(matches!(
        make_server_certificate(&made, "*.example", SERVER_LIFETIME, now()),
        Err(MakeError::Domain(_))
    ));
    assert!(!format!("{made:?}").contains(made.key_pem.expose_secret()));
}

#[test]
fn a_server_certificate_does_not_outlive_its_authority() {
    let made = make_authority("one", now()).unwrap();
    let server = make_server_certificate(&made, "a.example", AUTHORITY_LIFETIME * 2, now()).unwrap();
    assert!(server.expires_at <= made.authority().expires_at);
}

#[test]
fn fingerprints_are_read_in_every_common_form() {
    let text = fingerprint(b"x");
    let bytes = parse_fingerprint(&text).unwrap();
    let colons: Vec<_> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(parse_fingerprint(&colons.join(":")), Some(bytes));
    for bad in [
        "",
        "ab",
        &text[1..],
        &text.replace('a', "g").replace('b', "h").replace('0', "x"),
        &(text.clone() + "00"),
    ] {
        assert_eq!(parse_fingerprint(bad), None, "{bad}");
    }
}

const RSA_1024: &str = "\
-----BEGIN CERTIFICATE-----
MIICEjCCAXugAwIBAgIUGs6j2f+Ko2wSc5G3Uz0S7nAR8gEwDQYJKoZIhvcNAQEL
BQAwEjEQMA4GA1UEAwwHdGVzdCBSMTAgFw0yNjExMjEwNDEwNDFaGA8yMTI2MTAy
ODA0MTA0MVowEjEQMA4GA1UEAwwHdGVzdCBSMTCBnzANBgkqhkiG9w0BAQEFAAOB
jQAwgYkCgYEA7XkQ83DrsuksGcQ8NP0yxAF0Pkzbp5azFM5yvVBCo5y81uG9Ur2q
WYlLNgkukkzTpTjdBCzxpdvyuNRgdJ745wA168KuGzsBbQJTkXtFkjRu1Tlyt9Y1
aRTUt+pROUikwCKSHuUffqmcAe+fzfHV+22XfqEJePPybK+yx0lf2k0CAwEAAaNj
MGEwHwYDVR0jBBgwFoAUXnbq6mHR1Tb+rNhzjqjl0fJvRfowDwYDVR0TAQH/BAUw
AwEB/zAOBgNVHQ8BAf8EBAMCAgQwHQYDVR0OBBYEFF526uph0dU2/qzYc46o5dHy
b0X6MA0GCSqGSIb3DQEBCwUAA4GBAA43g46mBw0LYlZcNTAeO/5Vx0wYYbhfWxhM
wTD/lf04x/SW4N8pokOFGj3IbIe88TNtAK1iVXbFGNDDPgmhbjhAu2jpCf8qRpnb
mCjtpCiuHj6G+Embn2ZRyQLWHw4P3621V1y0Ynjtvrxy4HTodZsytg83pfrWlCcE
IBXnOKv5
-----END CERTIFICATE-----
";

const RSA_SHA1: &str = "\
-----BEGIN CERTIFICATE-----
MIIDFzCCAf+gAwIBAgIUUjxyYRsWTvTDdjoLp7gh/Alc2MUwDQYJKoZIhvcNAQEF
BQAwEjEQMA4GA1UEAwwHdGVzdCBSMjAgFw0yNjExMjEwNDEwNDFaGA8yMTI2MTAy
ODA0MTA0MVowEjEQMA4GA1UEAwwHdGVzdCBSMjCCASIwDQYJKoZIhvcNAQEBBQAD
ggEPADCCAQoCggEBALtE+9IDJQsujK7/kn4QIy+BRZN29wjPQRmGWTxc0biGU+58
HZuDLOedCnLpJ1IIhECO75yucCWUIMti115mujs7T2geF4gw4nDZWVsSzEKU7Zn3
S0dE6eLNIzzyhdbvHeXnthBI4/elW5iHKnCo0B6Nt2+zZNNdmJlkkG/mCxHOKlv2
cIO1gUyniH+vJUw55QTdNQciPTkF5Y7vdAzU6f5UC/4ZQr6MA75VoOa/4n5BQy1K
H7rGovC3lLs95hD3xqIkMzOBR0JvC9fJqMfmrE/QxzVJ0P+t+iPkUzaexjUwMFpx
AOPGI2Tq0F3gqB0/d0bnpUn6LkqP5WYCO1HQdp0CAwEAAaNjMGEwHwYDVR0jBBgw
FoAUFIG/ZEKcjLFFN8OQztxgfnEgE44wDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8B
Af8EBAMCAgQwHQYDVR0OBBYEFBSBv2RCnIyxRTfDkM7cYH5xIBOOMA0GCSqGSIb3
DQEBBQUAA4IBAQBs5+4i8ggAXfeSd9HWQUbHJFZBhG0rt5VYFWFOwwK7PJ8vPHwW
bGFBUhuG/+wwnsWFv8wijNmFWoQPIKaKBwQwJ9+FNMC0NwG2FMF8RYPeeqzJOlgZ
4DkTViLillVmxtBl8yUp+A/dxRf9oZ95bgG1eVIBqw/VPm97WzssOSvDn6e60GSy
/ZSx6nCBPTbTmobG6+CfLSpMnSXae2A0e3ZBYXr0Niphw7sPF75qlzdUIevNPxVV
QFRVbFoemQ/tPj7d4uoyjCChauuEL/BwxMXhAdXwa+7suneyAOlYIiZd+Dg8Fx/F
LU0AYhRDZlxLSsT1YcNl/OwDdUAyWBrGmHat
-----END CERTIFICATE-----
";

const RSA_2048: &str = "\
-----BEGIN CERTIFICATE-----
MIIDFzCCAf+gAwIBAgIUTlAIe2doYPc8KpllJaPOvjj0UxIwDQYJKoZIhvcNAQEL
BQAwEjEQMA4GA1UEAwwHdGVzdCBSMzAgFw0yNjExMjEwNDEwNDFaGA8yMTI2MTAy
ODA0MTA0MVowEjEQMA4GA1UEAwwHdGVzdCBSMzCCASIwDQYJKoZIhvcNAQEBBQAD
ggEPADCCAQoCggEBAJ3J6/vFxuje/6z35wmxpgA8N07gMOWABHKINhhKNkyf4e5e
375E9p7aedRyRyf/Z2z6hqg0xsJ0YdhvkGejb/ED1ANXS23+y1HkS0Tdu+I/b1Q/
YtO2A2MBXDXdrpSkQsHsCizFUZKKfqdnWtWSvSbNuuSXQHVoOl/i1dD7a4gO7RxW
GyWIKT/4BYmstkpM31g3MpPsS3CshpXlQ41d14kGnJaUF4/ahgU0eYfrjJsZXljf
+tDO5Z7OPHP2u9+fY3TTA+njlVjEFoUK2f1QkD9YAnB8NQUlvGa0xW50R8BaR285
tyupSTFVxpZ9Os9yg4Xc+ONhtQNAXV3Z745gl6UCAwEAAaNjMGEwHwYDVR0jBBgw
FoAUw1ZkWkyHVi2VWUotg4dY9z/0NF4wDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8B
Af8EBAMCAgQwHQYDVR0OBBYEFMNWZFpMh1YtlVlKLYOHWPc/9DReMA0GCSqGSIb3
DQEBCwUAA4IBAQA4/U7CIEke4a/jxbs0OTK2O0fBfvYzcZIlr2RFfLM609jRwYAT
6KNdWGEhL4Z90XDi7uQ0Eg/xscU32+Caoh4A0kCjMNhPVbHcQl1TPlPBcxAoXhlE
EX/jg/F2aKDRwkNpXt2D4MWLyNeCkNzI5/ps2saIhhrQGoG+g3fLxOBY97Rcupzx
vVUs4MSpwBlx3T+N8wP3BsEWDD0i0ffQTI4CDq12P40MI2eJG7PHgz9U6iOazyI+
dPSn3TwxV7DvsUZaq10brnOWStjqCoeDCKP/ebNQbYNpmKTnUM34BnueixwerMUM
HPxe6oCXna370/xkOqMlVVB10KKJytkqe2Dm
-----END CERTIFICATE-----
";

#[test]
fn a_server_certificate_is_judged_as_the_plane_judges_it() {
    let authority = make_authority("gateway", now()).unwrap();
    let other = make_authority("gateway", now()).unwrap();
    let domain = "x1.tunnel.test";
    let made = make_server_certificate(&authority, domain, SERVER_LIFETIME, now()).unwrap();
    let (certificate, key) = (made.certificate_pem.as_str(), made.key_pem.expose_secret());
    let check = |certificate: &str, key: &str, authority: &MadeAuthority, domain: &str, days: i64| {
        let at = now().plus_seconds(days * 86_400);
        check_server(certificate, key, authority.authority(), domain, at)
    };
    let expires = check(certificate, key, &authority, domain, 0).unwrap();
    assert_eq!(expires, made.expires_at);
    let strange = KeyPair::generate().unwrap().serialize_pem();
    for (found, expected) in [
        (check("", key, &authority, domain, 0), "no certificate"),
        (check(certificate, "", &authority, domain, 0), "no private key"),
        (
            check(certificate, &strange, &authority, domain, 0),
            "not that of the certificate",
        ),
        (check(certificate, key, &other, domain, 0), "not signed by an authority"),
        (
            check(certificate, key, &authority, "x2.tunnel.test", 0),
            "not valid for `x2",
        ),
        (check(certificate, key, &authority, domain, 91), "expired"),
        (check(certificate, key, &authority, domain, 6 * 365), "expired"),
    ] {
        let error = found.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
