//! Certificates, and gateways that show one for somebody else.

use super::tests::{ISSUER_KEYS, NOW, b64, claims, header, verifier, with};
use super::*;
use crate::transport::tls::{certificates, self_signed};
use serde_json::json;
use std::time::{Duration, UNIX_EPOCH};

fn certificate(names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let set = self_signed::make(&self_signed::Wanted {
        hosts: &["localhost".into()],
        clients: &names,
        not_before: UNIX_EPOCH + Duration::from_secs(NOW - 60),
        lifetime: Duration::from_secs(3600),
    })
    .unwrap();
    let chain = certificates("test", set.clients[0].certificate.as_bytes()).unwrap();
    Certificate::parse(&chain[0]).unwrap()
}

fn signed_with(names: Vec<rcgen::SanType>) -> Certificate {
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = names;
    let key = rcgen::KeyPair::generate().unwrap();
    Certificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
}

fn uri(name: &str) -> rcgen::SanType {
    rcgen::SanType::URI(name.try_into().unwrap())
}

#[test]
fn a_certificate_that_ends_while_its_connection_lasts_proves_nothing() {
    let certificate = signed_with(vec![uri("spiffe://example/ci")]);
    let evidence = Evidence {
        certificate: Some(&certificate),
        ..Evidence::default()
    };
    let end = certificate.valid_until();
    assert!(verifier().identify(&evidence, end).is_ok());
    let late = verifier().identify(&evidence, end + 1);
    assert_eq!(late, Err(Denied::Certificate));
}

fn by_certificate(certificate: &Certificate) -> Result<Caller, Denied> {
    let evidence = Evidence {
        certificate: Some(certificate),
        ..Evidence::default()
    };
    verifier().identify(&evidence, NOW)
}

#[test]
fn certificates_name_clients() {
    let caller = by_certificate(&certificate(&["spiffe://example/ci"])).unwrap();
    assert_eq!((caller.client.as_str(), caller.how), ("ci", How::Mtls));
    assert_eq!(caller.tenant.as_deref(), Some("a"));
    assert_eq!(caller.scopes, ["builds:read", "issues:read"]);
    let host = signed_with(vec![rcgen::SanType::DnsName(
        "TWIN.example".try_into().unwrap(),
    )]);
    assert_eq!(by_certificate(&host).unwrap().client, "twin");
    let mail = rcgen::SanType::Rfc822Name("ci@example.org".try_into().unwrap());
    assert_eq!(
        by_certificate(&signed_with(vec![mail])).unwrap().client,
        "post"
    );

    let dns = |name: &str| rcgen::SanType::DnsName(name.try_into().unwrap());
    for (name, names) in [
        ("no name", vec![]),
        ("not listed", vec![uri("spiffe://example/other")]),
        ("the start of one", vec![uri("spiffe://example/c")]),
        ("longer than one", vec![uri("spiffe://example/ci/x")]),
        ("other letters", vec![uri("spiffe://example/CI")]),
        (
            "two clients",
            vec![uri("spiffe://example/ci"), uri("spiffe://example/gate")],
        ),
        ("a host for a URI", vec![dns("spiffe.example.ci")]),
        ("a URI for a host", vec![uri("twin.example")]),
        (
            "an address",
            vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())],
        ),
        ("a star", vec![dns("*.example")]),
    ] {
        let denied = by_certificate(&signed_with(names)).expect_err(name);
        assert_eq!(
            (denied, denied.status()),
            (Denied::Certificate, 401),
            "{name}"
        );
    }
    let many: Vec<_> = (0..65).map(|at| uri(&format!("urn:x:{at}"))).collect();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = many;
    let key = rcgen::KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap();
    assert_eq!(
        Certificate::parse(der.der()),
        Err(CertificateError::TooManyNames)
    );
    assert_eq!(Certificate::parse(b"no"), Err(CertificateError::Der));
}

#[test]
fn a_wrong_token_is_refused_also_behind_a_right_certificate() {
    let ci = certificate(&["spiffe://example/ci"]);
    let ask = |token: &str| {
        let value = format!("Bearer {token}");
        let authorization = [value.as_bytes()];
        let evidence = Evidence {
            authorization: &authorization,
            certificate: Some(&ci),
            ..Evidence::default()
        };
        verifier().identify(&evidence, NOW)
    };
    let expired = ISSUER_KEYS.token(&header(), &with(json!({ "exp": 1 })));
    assert_eq!(ask(&expired), Err(Denied::Token(TokenFault::Expired)));
    assert_eq!(ask("cfd_wrong"), Err(Denied::Key));
    let good = ISSUER_KEYS.token(&header(), &claims());
    assert_eq!(ask(&good).unwrap().client, "app");
    let bound = |thumbprint: &[u8]| {
        let cnf = json!({ "cnf": { "x5t#S256": b64(thumbprint) } });
        ask(&ISSUER_KEYS.token(&header(), &with(cnf)))
    };
    assert!(bound(ci.thumbprint()).is_ok());
    assert_eq!(bound(&[0; 32]), Err(Denied::Token(TokenFault::Binding)));
}

#[test]
fn a_gateway_says_for_whom_by_a_token_and_nothing_else() {
    let gate = certificate(&["spiffe://example/gate"]);
    let ci = certificate(&["spiffe://example/ci"]);
    let ask = |certificate: Option<&Certificate>, tokens: &[&str], own: Option<&str>| {
        let tokens: Vec<&[u8]> = tokens.iter().map(|token| token.as_bytes()).collect();
        let own: Vec<&[u8]> = own.iter().map(|token| token.as_bytes()).collect();
        let evidence = Evidence {
            authorization: &own,
            certificate,
            on_behalf_of: &tokens,
            ..Evidence::default()
        };
        verifier().identify(&evidence, NOW)
    };
    let good = ISSUER_KEYS.token(&header(), &with(json!({ "scope": "issues:read admin" })));
    let caller = ask(Some(&gate), &[&good], None).unwrap();
    assert_eq!((caller.client.as_str(), caller.how), ("gate", How::Gateway));
    assert_eq!(caller.user.as_deref(), Some("ann"));
    // What both may do.
    assert_eq!(caller.scopes, ["issues:read"]);
    let plain = ask(Some(&gate), &[], None).unwrap();
    assert_eq!((plain.how, plain.user.as_deref()), (How::Mtls, None));
    assert_ne!(plain.principal(), caller.principal());

    let other_tenant = ISSUER_KEYS.token(&header(), &with(json!({ "tenant": "b" })));
    let expired = ISSUER_KEYS.token(&header(), &with(json!({ "exp": 1 })));
    let blocked = ISSUER_KEYS.token(&header(), &with(json!({ "client_id": "banned" })));
    let bearer = format!("Bearer {good}");
    for (name, certificate, tokens, own, denied) in [
        (
            "a client that is none",
            Some(&ci),
            vec![good.as_str()],
            None,
            Denied::NotGateway,
        ),
        (
            "nobody",
            None,
            vec![good.as_str()],
            None,
            Denied::NotGateway,
        ),
        (
            "another tenant",
            Some(&gate),
            vec![other_tenant.as_str()],
            None,
            Denied::Tenant,
        ),
        (
            "an expired token",
            Some(&gate),
            vec![expired.as_str()],
            None,
            Denied::Token(TokenFault::Expired),
        ),
        (
            "a blocked client",
            Some(&gate),
            vec![blocked.as_str()],
            None,
            Denied::Blocked,
        ),
        (
            "a name",
            Some(&gate),
            vec!["ann"],
            None,
            Denied::Token(TokenFault::Malformed),
        ),
        (
            "two users",
            Some(&gate),
            vec![good.as_str(), good.as_str()],
            None,
            Denied::Malformed("a gateway asks for one user at a time"),
        ),
        (
            "a bearer token too",
            Some(&gate),
            vec![good.as_str()],
            Some(bearer.as_str()),
            Denied::Malformed("a gateway proves itself by its certificate, not by a bearer token"),
        ),
    ] {
        assert_eq!(ask(certificate, &tokens, own), Err(denied), "{name}");
    }
}
