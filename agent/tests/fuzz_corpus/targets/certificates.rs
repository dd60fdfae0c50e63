//! A server's certificate chain, beside two independent readers.

use super::{Reading, home};
use hearthkey_agent::UnixTime;
use hearthkey_agent::sans_io::readers::judge_chain;
use hearthkey_agent::tls::{HUB_NAME, Refusal, TrustAnchor};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// A leaf of a length that the first two bytes say, and a CA behind it: what is believed, webpki believes; what is judged by its
/// contents, x509-parser reads the same.
pub(crate) fn certificates(data: &[u8]) -> Reading {
    let Some((&[high, low], rest)) = data.split_first_chunk() else { return Reading::Refused };
    let Some((leaf, ca)) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low]))) else { return Reading::Refused };
    let now = UnixTime::from_secs(home::NOW);
    let judged = judge_chain(TrustAnchor::FirstSeen, &[leaf, ca], Some(now));

    let pinned: [u8; 32] = Sha256::digest(home::CA).into();
    let by_pin = judge_chain(TrustAnchor::Pinned(&pinned), &[leaf, ca], Some(now));
    assert_eq!(by_pin, if ca == home::CA { judged.clone() } else { Err(Refusal::WrongCa) });
    let home_ca = judge_chain(TrustAnchor::Pinned(&pinned), &[home::HUB, home::CA], Some(now)).expect("a home in order");
    // The anchor that is known decides, not what the server shows beside its leaf.
    let by_anchor = judge_chain(TrustAnchor::Known(&home_ca), &[leaf], Some(now));
    assert_eq!(by_anchor, judge_chain(TrustAnchor::Known(&home_ca), &[leaf, ca], Some(now)));
    assert!(by_anchor.is_err() || leaf == home::HUB, "a leaf that our CA never signed");

    match &judged {
        Ok(_) => is_believed_by_webpki(leaf, ca),
        Err(Refusal::NotIssuedByCa | Refusal::OutsideValidity) => {}
        Err(_) => return Reading::Refused,
    }
    let Ok((rest, theirs)) = X509Certificate::from_der(leaf) else { return Reading::of(&judged) };
    assert!(rest.is_empty(), "bytes behind the certificate");
    reads_the_same(&theirs, judged == Err(Refusal::OutsideValidity), ca);
    Reading::of(&judged)
}

/// Our reader let the leaf pass as a server's: so must theirs, as far as theirs can read it.
fn reads_the_same(theirs: &X509Certificate<'_>, is_outside_validity: bool, ca: &[u8]) {
    assert!(!theirs.is_ca(), "a CA as a leaf");
    if let Ok(usage) = theirs.key_usage() {
        assert!(usage.is_some_and(|usage| usage.value.digital_signature()));
    }
    if let Ok(usage) = theirs.extended_key_usage() {
        assert!(usage.is_some_and(|usage| usage.value.server_auth));
    }
    if let Ok(names) = theirs.subject_alternative_name() {
        let mut names = names.expect("our reader found a name").value.general_names.iter();
        assert!(names.any(|name| matches!(name, GeneralName::DNSName(name) if name.eq_ignore_ascii_case(HUB_NAME))));
    }
    let holds = |validity: &x509_parser::certificate::Validity| {
        let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        (from..=to).contains(&i64::try_from(home::NOW).expect("a date"))
    };
    if let Ok((_, ca)) = X509Certificate::from_der(ca) {
        assert_eq!(is_outside_validity, !(holds(theirs.validity()) && holds(ca.validity())), "{:?}", theirs.validity());
    }
}

fn is_believed_by_webpki(leaf: &[u8], ca: &[u8]) {
    let mut roots = rustls::RootCertStore::empty();
    // A CA whose other fields make no sense to them is the owner's own business.
    let Ok(()) = roots.add(CertificateDer::from(ca)) else { return };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("a root");
    let name = ServerName::try_from(HUB_NAME).expect("a DNS name");
    let now = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(home::NOW));
    verifier.verify_server_cert(&CertificateDer::from(leaf), &[], &name, &[], now).expect("webpki believes it as well");
}
