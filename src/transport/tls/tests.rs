//! Handshakes in memory, and over loopback where `accept` is meant.

use super::self_signed::{Made, Set, Wanted, make};
use super::*;
use crate::config::ClientAuth;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConnection};
use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn set(started: SystemTime) -> Set {
    make(&Wanted {
        hosts: &["localhost".into(), "127.0.0.1".into()],
        clients: &["spiffe://example/ci".into()],
        not_before: started,
        lifetime: 2 * DAY,
    })
    .unwrap()
}

fn fresh() -> Set {
    set(SystemTime::now() - DAY)
}

fn texts(set: &Set, client_ca: Option<&Set>) -> ServerPem {
    ServerPem {
        certificate: set.server.certificate.clone().into(),
        key: set.server.key.clone().into(),
        client_ca: client_ca.map(|set| set.authority.clone().into()),
        client_crl: None,
    }
}

fn listener(set: &Set, client_ca: Option<&Set>, client_auth: ClientAuth) -> ServerTls {
    let settings = ServerSettings {
        client_auth,
        ..ServerSettings::default()
    };
    ServerTls::new(settings, &texts(set, client_ca)).unwrap()
}

/// A client that trusts `set`, of any version that rustls has.
fn client(set: &Set, oldest: TlsVersion, own: Option<&Made>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for root in certificates("test", set.authority.as_bytes()).unwrap() {
        roots.add(root).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(provider(oldest))
        .with_protocol_versions(versions(oldest))
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some(made) => builder
            .with_client_auth_cert(
                certificates("test", made.certificate.as_bytes()).unwrap(),
                private_key("test", made.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    }
}

type Pair = (ClientConnection, ServerConnection);

fn start(client: ClientConfig, server: &ServerTls) -> Result<Pair, rustls::Error> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(server.config()).unwrap();
    for _ in 0..20 {
        flow(&mut client, &mut server)?;
        flow(&mut server, &mut client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn flow<A, B>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
) -> Result<(), rustls::Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

/// Sends a line through and back.
fn talk((client, server): &mut Pair) {
    client.writer().write_all(b"ping").unwrap();
    flow(client, server).unwrap();
    let mut heard = [0; 4];
    server.reader().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ping");
    server.writer().write_all(b"pong").unwrap();
    flow(server, client).unwrap();
    client.reader().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"pong");
}

#[test]
fn only_the_newest_version_unless_the_operator_says_so() {
    let set = fresh();
    let strict = listener(&set, None, ClientAuth::Required);
    let mut pair = start(client(&set, TlsVersion::V1_3, None), &strict).unwrap();
    assert_eq!(pair.0.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    talk(&mut pair);

    let old = |server: &ServerTls| {
        let mut roots = RootCertStore::empty();
        for root in certificates("test", set.authority.as_bytes()).unwrap() {
            roots.add(root).unwrap();
        }
        let config = ClientConfig::builder_with_provider(provider(TlsVersion::V1_2))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        start(config, server).map(|pair| pair.0.protocol_version())
    };
    assert!(matches!(
        old(&strict),
        Err(rustls::Error::PeerIncompatible(_))
    ));
    let settings = ServerSettings {
        oldest: TlsVersion::V1_2,
        ..ServerSettings::default()
    };
    let lax = ServerTls::new(settings, &texts(&set, None)).unwrap();
    assert_eq!(old(&lax), Ok(Some(ProtocolVersion::TLSv1_2)));
}

#[test]
fn every_suite_has_forward_secrecy_and_authenticates_what_it_encrypts() {
    for (oldest, most) in [(TlsVersion::V1_3, 3), (TlsVersion::V1_2, 9)] {
        let suites = provider(oldest).cipher_suites.clone();
        assert_eq!(suites.len(), most);
        for suite in suites {
            let name = format!("{:?}", suite.suite());
            let aead = name.contains("GCM") || name.contains("POLY1305");
            let forward = name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_");
            assert!(aead && forward, "{name}");
        }
    }
}

#[test]
fn a_reload_reaches_new_connections_and_leaves_open_ones() {
    let (first, second) = (fresh(), fresh());
    let server = listener(&first, None, ClientAuth::Required);
    let mut open = start(client(&first, TlsVersion::V1_3, None), &server).unwrap();
    server.reload(&texts(&second, None)).unwrap();
    talk(&mut open);
    // Whoever trusts only the first authority sees that the certificate has changed.
    assert!(start(client(&first, TlsVersion::V1_3, None), &server).is_err());
    let mut new = start(client(&second, TlsVersion::V1_3, None), &server).unwrap();
    talk(&mut new);
    talk(&mut open);
}

#[test]
fn a_broken_reload_changes_nothing() {
    let (good, other) = (fresh(), fresh());
    let server = listener(&good, None, ClientAuth::Required);
    let broken = |change: &dyn Fn(&mut ServerPem)| {
        let mut texts = texts(&good, None);
        change(&mut texts);
        let error = server.reload(&texts).unwrap_err();
        let mut pair = start(client(&good, TlsVersion::V1_3, None), &server).unwrap();
        talk(&mut pair);
        error
    };
    let key_of_another = broken(&|texts| texts.key = other.server.key.clone().into());
    assert!(matches!(key_of_another, TlsError::Identity { .. }));
    let none = broken(&|texts| texts.certificate = b"nothing".to_vec());
    assert!(matches!(none, TlsError::NoCertificate { .. }));
    let none = broken(&|texts| texts.key.clear());
    assert!(matches!(none, TlsError::NoKey { .. }));
    let half = broken(&|texts| texts.certificate.truncate(200));
    assert!(matches!(
        half,
        TlsError::Pem { .. } | TlsError::NoCertificate { .. }
    ));
    let empty = broken(&|texts| texts.client_ca = Some(Vec::new()));
    assert!(matches!(empty, TlsError::NoCertificate { .. }));
    // A full disk leaves half of a block.
    let torn = broken(&|texts| {
        texts.key =
            b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIV".to_vec();
    });
    assert!(matches!(
        torn,
        TlsError::Pem { .. } | TlsError::NoKey { .. }
    ));
}

#[test]
fn client_certificates_are_proved() {
    let (ours, foreign) = (fresh(), fresh());
    let past = set(SystemTime::now() - 30 * DAY);
    let future = set(SystemTime::now() + DAY);
    let required = listener(&ours, Some(&ours), ClientAuth::Required);
    let with = |own: Option<&Made>, server: &ServerTls| {
        start(client(&ours, TlsVersion::V1_3, own), server)
    };

    let pair = with(Some(&ours.clients[0]), &required).unwrap();
    let shown = pair.1.peer_certificates().unwrap();
    let sent = certificates("test", ours.clients[0].certificate.as_bytes()).unwrap();
    assert_eq!(shown, sent);

    assert!(matches!(
        with(None, &required),
        Err(rustls::Error::NoCertificatesPresented)
    ));
    let refused = |result: Result<Pair, rustls::Error>| {
        matches!(result, Err(rustls::Error::InvalidCertificate(_)))
    };
    assert!(refused(with(Some(&foreign.clients[0]), &required)));
    // A certificate of the right authority that is for servers.
    assert!(refused(with(Some(&ours.server), &required)));
    for wrong_time in [&past, &future] {
        let server = listener(&ours, Some(wrong_time), ClientAuth::Required);
        assert!(refused(with(Some(&wrong_time.clients[0]), &server)));
    }

    let optional = listener(&ours, Some(&ours), ClientAuth::Optional);
    let pair = with(None, &optional).unwrap();
    assert!(pair.1.peer_certificates().is_none());
    assert!(refused(with(Some(&foreign.clients[0]), &optional)));
    // Asked for nothing, a client shows nothing.
    let silent = listener(&ours, None, ClientAuth::Required);
    let pair = with(Some(&ours.clients[0]), &silent).unwrap();
    assert!(pair.1.peer_certificates().is_none());
}

#[test]
fn a_client_that_was_proved_once_is_proved_again() {
    let set = fresh();
    let config = client(&set, TlsVersion::V1_3, Some(&set.clients[0]));
    let required = listener(&set, Some(&set), ClientAuth::Required);
    for _ in 0..2 {
        let mut pair = start(config.clone(), &required).unwrap();
        talk(&mut pair);
        assert_eq!(pair.0.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn a_revoked_client_is_refused() {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
        SerialNumber,
    };
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let issued = |serial: u64| {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        Made {
            certificate: params.signed_by(&key, &authority).unwrap().pem(),
            key: key.serialize_pem(),
        }
    };
    let (good, bad) = (issued(7), issued(8));
    let now = rcgen::date_time_ymd(2020, 1, 1);
    let list = CertificateRevocationListParams {
        this_update: now,
        next_update: rcgen::date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(8),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&authority).unwrap().pem().unwrap();
    let set = fresh();
    let mut texts = texts(&set, None);
    texts.client_ca = Some(authority.pem().into());
    texts.client_crl = Some(list.into());
    let server = ServerTls::new(ServerSettings::default(), &texts).unwrap();
    assert!(start(client(&set, TlsVersion::V1_3, Some(&good)), &server).is_ok());
    let refused = start(client(&set, TlsVersion::V1_3, Some(&bad)), &server);
    assert_eq!(
        refused.err(),
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::Revoked
        ))
    );
}

#[test]
fn an_upstream_is_held_to_its_pin() {
    let (set, other) = (fresh(), fresh());
    let server = listener(&set, None, ClientAuth::Required);
    let leaf = |set: &Set| {
        let chain = certificates("test", set.server.certificate.as_bytes()).unwrap();
        Pin::of(&chain[0]).unwrap()
    };
    let root = {
        let chain = certificates("test", set.authority.as_bytes()).unwrap();
        Pin::of(&chain[0]).unwrap()
    };
    let connect = |pins: &[Pin]| {
        let roots = set.authority.as_bytes();
        let config = client_config(TlsVersion::V1_3, roots, pins, &[]).unwrap();
        start(config, &server).map(drop)
    };
    assert_eq!(connect(&[]), Ok(()));
    assert_eq!(connect(&[leaf(&set)]), Ok(()));
    assert_eq!(connect(&[leaf(&other), leaf(&set)]), Ok(()));
    let refused = Err(rustls::Error::InvalidCertificate(
        rustls::CertificateError::ApplicationVerificationFailure,
    ));
    assert_eq!(connect(&[leaf(&other)]), refused);
    assert_eq!(connect(&[root]), refused);
    // A pin does not replace the proof.
    let config = client_config(
        TlsVersion::V1_3,
        other.authority.as_bytes(),
        &[leaf(&set)],
        &[],
    );
    assert!(start(config.unwrap(), &server).is_err());
}

#[test]
fn a_pin_is_written_as_it_is_read() {
    let set = fresh();
    let chain = certificates("test", set.server.certificate.as_bytes()).unwrap();
    let pin = Pin::of(&chain[0]).unwrap();
    let text = pin.to_string();
    assert_eq!(text.parse(), Ok(pin));
    assert_eq!(text.replacen("sha256/", "sha256//", 1).parse(), Ok(pin));
    // One in 64 begins with a slash of its own.
    let slashes = "/".repeat(42) + "8=";
    let [one, two] = ["sha256/", "sha256//"].map(|prefix| format!("{prefix}{slashes}").parse());
    assert!(one.is_ok_and(|pin: Pin| pin.to_string().ends_with(&slashes)));
    assert_eq!(one, two);
    for wrong in ["", "sha256/", "sha256/AAAA", "md5/AAAA", &text[7..]] {
        assert_eq!(wrong.parse::<Pin>(), Err(PinError), "{wrong}");
    }
}

#[test]
fn keys_are_never_shown() {
    let set = fresh();
    let texts = texts(&set, Some(&set));
    let shown = format!("{texts:?} {set:?} {:?}", set.server);
    let secret = set.server.key.lines().nth(1).unwrap();
    assert!(!shown.contains(secret) && !shown.contains("PRIVATE KEY"));
}

#[test]
fn accept_takes_the_configuration_of_the_moment() {
    let set = fresh();
    let server = listener(&set, None, ClientAuth::Required);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let accept = |visit: fn(std::net::TcpStream, ClientConfig)| {
        runtime.block_on(async {
            let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = door.local_addr().unwrap();
            let config = client(&set, TlsVersion::V1_3, None);
            let visitor = std::thread::spawn(move || {
                visit(std::net::TcpStream::connect(address).unwrap(), config);
            });
            let (stream, _) = door.accept().await.unwrap();
            let accepted = server.accept(stream).await;
            let version = accepted.map(|stream| stream.get_ref().1.protocol_version());
            visitor.join().unwrap();
            version
        })
    };
    let version = accept(|mut stream, config| {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        client.complete_io(&mut stream).unwrap();
    });
    assert_eq!(version.unwrap(), Some(ProtocolVersion::TLSv1_3));
    // Plain HTTP is no handshake.
    let plain = accept(|mut stream, _| {
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    });
    assert!(plain.is_err());
}
