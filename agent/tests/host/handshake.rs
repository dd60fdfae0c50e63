//! Whom the device believes. Right certificates pass, and each thing wrong with one is named.

use crate::support::pki::{HomeCa, Leaf, TODAY, hub_params, server_config, unknown_critical};
use crate::support::{Pipe, TestPlatform};
use hearthkey_agent::keys::Drbg;
use hearthkey_agent::tls::{self, Channel, Refusal, TlsBuffers, TlsError, TrustAnchor};
use hearthkey_agent::{Platform, Transport, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P384_SHA384, SanType,
};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// A handshake between the device and rustls; the home CA that the device learnt, or why it refused.
async fn shake_hands(
    chain: Vec<CertificateDer<'static>>,
    leaf: &Leaf,
    anchor: TrustAnchor<'_>,
    now: Option<u64>,
) -> Result<tls::HomeCa, TlsError> {
    let (platform, mut calls) = TestPlatform::new(1);
    let pipe: Pipe = platform.connect("hub", 8883).await.unwrap();
    let stream = calls.recv().await.unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server_config(chain, leaf.private_key())));
    let device = async move {
        // Dropped at the end, so that the server notices.
        let mut pipe = pipe;
        let mut buffers = TlsBuffers::new();
        let (reader, writer) = pipe.split();
        let mut random = Drbg::from_seed(&[1; 32], "test");
        let now = now.map(UnixTime::from_secs);
        let mut channel = Channel::new(reader, writer, &mut buffers);
        let mut connection = channel.authenticated(anchor, now, &mut random).await?;
        connection.write(b"ping").await?;
        let mut answer = [0; 16];
        let mut received = 0;
        while received < 4 {
            received += connection.read(&mut answer[received..]).await?;
        }
        assert_eq!(&answer[..received], b"pong");
        let home_ca = connection.home_ca().clone();
        channel.close().await;
        Ok(home_ca)
    };
    let server = async {
        let Ok(mut stream) = acceptor.accept(stream).await else { return };
        let mut request = [0; 4];
        if stream.read_exact(&mut request).await.is_ok() {
            assert_eq!(&request, b"ping");
            stream.write_all(b"pong").await.unwrap();
            let _ = stream.read(&mut request).await;
        }
    };
    tokio::join!(device, server).0
}

/// What the device says to a hub certificate of the right CA.
async fn judge(adjust: impl FnOnce(&mut CertificateParams)) -> Result<tls::HomeCa, TlsError> {
    let ca = HomeCa::new("home");
    let leaf = ca.leaf(adjust);
    shake_hands(vec![leaf.der.clone(), ca.der.clone()], &leaf, TrustAnchor::Pinned(&ca.sha256()), Some(TODAY)).await
}

async fn judge_ca(adjust: impl FnOnce(&mut CertificateParams)) -> Result<tls::HomeCa, TlsError> {
    let ca = HomeCa::with("home", adjust);
    let leaf = ca.hub();
    shake_hands(vec![leaf.der.clone(), ca.der.clone()], &leaf, TrustAnchor::Pinned(&ca.sha256()), Some(TODAY)).await
}

fn refused(refusal: Refusal) -> Result<tls::HomeCa, TlsError> {
    Err(TlsError::Refused(refusal))
}

#[tokio::test(start_paused = true)]
async fn the_hub_of_the_pinned_ca_is_believed_with_and_without_a_date() {
    let ca = HomeCa::new("home");
    let leaf = ca.hub();
    let chain = vec![leaf.der.clone(), ca.der.clone()];
    for now in [None, Some(TODAY)] {
        let pinned = shake_hands(chain.clone(), &leaf, TrustAnchor::Pinned(&ca.sha256()), now).await;
        let learnt = pinned.expect("believed");
        let known = TrustAnchor::Known(&learnt);
        assert_eq!(shake_hands(chain.clone(), &leaf, known, now).await, Ok(learnt.clone()));
        assert_eq!(shake_hands(vec![leaf.der.clone()], &leaf, known, now).await, Ok(learnt.clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_name_may_stand_among_others_and_in_any_case() {
    let names = vec!["Hub.Hearthkey.Home.ARPA".to_owned(), "10.0.0.2".to_owned(), "hub.local".to_owned()];
    assert!(judge(|params| params.subject_alt_names = CertificateParams::new(names).unwrap().subject_alt_names).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_server_of_another_ca_is_refused_before_and_after_enrolment() {
    let (home, other) = (HomeCa::new("home"), HomeCa::new("home"));
    let (ours, forged) = (home.hub(), other.hub());
    let pinned = home.sha256();
    let learnt = shake_hands(vec![ours.der.clone(), home.der.clone()], &ours, TrustAnchor::Pinned(&pinned), None).await.unwrap();
    let theirs = vec![forged.der.clone(), other.der.clone()];
    let mixed = vec![forged.der.clone(), home.der.clone()];
    let pin = TrustAnchor::Pinned(&pinned);
    let known = TrustAnchor::Known(&learnt);
    assert_eq!(shake_hands(theirs.clone(), &forged, pin, None).await, refused(Refusal::WrongCa));
    assert_eq!(shake_hands(mixed.clone(), &forged, pin, None).await, refused(Refusal::NotIssuedByCa));
    assert_eq!(shake_hands(theirs, &forged, known, None).await, refused(Refusal::NotIssuedByCa));
    assert_eq!(shake_hands(mixed, &forged, known, None).await, refused(Refusal::NotIssuedByCa));
    assert_eq!(shake_hands(vec![forged.der.clone()], &forged, pin, None).await, refused(Refusal::ChainShape));
}

/// Hole b: the holder of any certificate of the home CA, such as a device, issues one for a hub of its own.
#[tokio::test(start_paused = true)]
async fn a_device_certificate_cannot_issue_a_hub() {
    let ca = HomeCa::new("home");
    let device = ca.leaf(|params| {
        params.subject_alt_names.clear();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let mut params = hub_params();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(
        params,
        KeyPair::from_pkcs8_der_and_sign_algo(&device.key.serialize_der().into(), &rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
    );
    let forger = HomeCa { issuer, der: device.der.clone() };
    let forged = forger.hub();
    let pin = ca.sha256();
    let pinned = TrustAnchor::Pinned(&pin);
    let three = vec![forged.der.clone(), device.der.clone(), ca.der.clone()];
    assert_eq!(shake_hands(three, &forged, pinned, Some(TODAY)).await, refused(Refusal::ChainShape));
    let hidden = vec![forged.der.clone(), ca.der.clone()];
    assert_eq!(shake_hands(hidden, &forged, pinned, Some(TODAY)).await, refused(Refusal::NotIssuedByCa));
    let short = vec![forged.der.clone(), device.der.clone()];
    assert_eq!(shake_hands(short, &forged, pinned, Some(TODAY)).await, refused(Refusal::WrongCa));
}

/// Hole b again, on the anchor itself.
#[tokio::test(start_paused = true)]
async fn an_anchor_that_may_not_sign_certificates_is_no_anchor() {
    assert_eq!(judge_ca(|params| params.is_ca = IsCa::NoCa).await, refused(Refusal::NotACa));
    assert_eq!(judge_ca(|params| params.is_ca = IsCa::ExplicitNoCa).await, refused(Refusal::NotACa));
    let wrong_usage = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert_eq!(judge_ca(wrong_usage).await, refused(Refusal::NotACa));
}

/// Hole c.
#[tokio::test(start_paused = true)]
async fn only_a_dns_name_of_the_certificate_counts_never_its_common_name() {
    let with_names = |names: Vec<SanType>| {
        judge(move |params| {
            params.distinguished_name.push(DnType::CommonName, "hub.hearthkey.home.arpa");
            params.subject_alt_names = names;
        })
    };
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    for names in [
        vec![],
        vec![dns("other.home.arpa")],
        vec![dns("*.hearthkey.home.arpa")],
        vec![dns("hub.hearthkey.home.arpa.evil.example")],
        vec![dns("xhub.hearthkey.home.arpa")],
        vec![SanType::Rfc822Name("hub.hearthkey.home.arpa".try_into().unwrap())],
        vec![SanType::URI("hub.hearthkey.home.arpa".try_into().unwrap())],
    ] {
        assert_eq!(with_names(names.clone()).await, refused(Refusal::WrongName), "{names:?}");
    }
}

/// Hole d, and the other marks of a server certificate.
#[tokio::test(start_paused = true)]
async fn a_certificate_for_something_else_is_no_server_certificate() {
    let no = refused(Refusal::NotAServerCertificate);
    let usages = |usages| judge(move |params| params.extended_key_usages = usages);
    assert_eq!(usages(vec![ExtendedKeyUsagePurpose::ClientAuth]).await, no);
    assert_eq!(usages(vec![ExtendedKeyUsagePurpose::Any]).await, no);
    assert_eq!(usages(vec![]).await, no);
    assert!(usages(vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]).await.is_ok());
    assert_eq!(judge(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]).await, no);
    assert_eq!(judge(|params| params.key_usages = vec![]).await, no);
    assert_eq!(judge(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)).await, no);
    assert!(judge(|params| params.is_ca = IsCa::ExplicitNoCa).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_critical_extension_is_refused_an_uncritical_one_is_not() {
    let no = refused(Refusal::UnknownCriticalExtension);
    assert_eq!(judge(|params| params.custom_extensions.push(unknown_critical())).await, no);
    assert_eq!(judge_ca(|params| params.custom_extensions.push(unknown_critical())).await, no);
    let constrained = |params: &mut CertificateParams| {
        let permitted = vec![GeneralSubtree::DnsName("home.arpa".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: vec![] });
    };
    assert_eq!(judge_ca(constrained).await, no, "name constraints are critical and not understood");
    let mut harmless = unknown_critical();
    harmless.set_criticality(false);
    assert!(judge(|params| params.custom_extensions.push(harmless)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn validity_is_judged_by_the_best_time_known_for_both_certificates() {
    let ca = HomeCa::new("home");
    let leaf = ca.leaf(|params| params.not_after = time::OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap());
    let chain = vec![leaf.der.clone(), ca.der.clone()];
    let pin = ca.sha256();
    let at = |now| shake_hands(chain.clone(), &leaf, TrustAnchor::Pinned(&pin), now);
    assert!(at(Some(1_700_000_000)).await.is_ok());
    assert!(at(Some(1_900_000_000)).await.is_ok());
    assert_eq!(at(Some(1_699_999_999)).await, refused(Refusal::OutsideValidity));
    assert_eq!(at(Some(1_900_000_001)).await, refused(Refusal::OutsideValidity));
    assert!(at(None).await.is_ok(), "no date yet: the pinned CA alone must do");

    let short_ca =
        HomeCa::with("home", |params| params.not_after = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap());
    let leaf = short_ca.hub();
    let chain = vec![leaf.der.clone(), short_ca.der.clone()];
    let pin = short_ca.sha256();
    let late = shake_hands(chain.clone(), &leaf, TrustAnchor::Pinned(&pin), Some(1_800_000_001)).await;
    assert_eq!(late, refused(Refusal::OutsideValidity));
    let known = shake_hands(chain.clone(), &leaf, TrustAnchor::Pinned(&pin), None).await.unwrap();
    let late = shake_hands(chain, &leaf, TrustAnchor::Known(&known), Some(1_800_000_001)).await;
    assert_eq!(late, refused(Refusal::OutsideValidity), "also once the CA is known");
}

#[tokio::test(start_paused = true)]
async fn another_kind_of_key_is_refused() {
    let ca = HomeCa::new("home");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let der = hub_params().signed_by(&key, &ca.issuer).unwrap().der().clone();
    let leaf = Leaf { key, der };
    let chain = vec![leaf.der.clone(), ca.der.clone()];
    let pin = ca.sha256();
    // rustls signs with P-384, which the engine takes for an offer of ours: the certificate is what stops it.
    assert_eq!(shake_hands(chain, &leaf, TrustAnchor::Pinned(&pin), None).await, refused(Refusal::Malformed));
}
