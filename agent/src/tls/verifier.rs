//! Judges a server's certificate chain and its proof of the key. One level: a hub certificate signed by the home CA.
//! Knows nothing of sockets, records or the TLS engine; the embedding file feeds it the two messages in order.

use super::x509::{Certificate, DIGITAL_SIGNATURE, KEY_CERT_SIGN, Validity};
use crate::keys::PublicKey;
use crate::time::UnixTime;
use heapless::Vec;
use sha2::{Digest as _, Sha256};

/// The DNS name in every hub certificate (RFC 8375), whatever the hub's address.
pub const HUB_NAME: &str = "hub.hearthkey.home.arpa";

/// The longest subject of a home CA, in DER bytes: one or two short attributes; more does not fit the identity record.
pub const MAX_CA_SUBJECT: usize = 128;

/// What a device holds of its home CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeCa {
    pub(crate) public_key: PublicKey,
    pub(crate) subject: Vec<u8, MAX_CA_SUBJECT>,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

/// Whom to trust.
#[derive(Debug, Clone, Copy)]
pub enum TrustAnchor<'a> {
    /// Before enrolment: the CA certificate in the handshake must have this SHA-256.
    Pinned(&'a [u8; 32]),
    /// Before a join: whichever CA the server shows, as long as it vouches for the server. Proves nothing until a person has
    /// compared the code that stands for it ([`join`](crate::join())).
    FirstSeen,
    /// Afterwards: this CA.
    Known(&'a HomeCa),
}

/// Why a server was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The handshake ended without a certificate, or without proof that the server holds its key.
    NotAuthenticated,
    /// Certificate messages twice, or in the wrong order.
    OutOfOrder,
    /// The chain is not the hub's certificate followed by the CA's.
    ChainShape,
    /// A certificate is not X.509 v3 with P-256 and ECDSA-SHA256, strictly encoded.
    Malformed,
    /// The CA certificate in the chain is not the one whose SHA-256 was given at enrolment.
    WrongCa,
    /// The CA certificate may not sign certificates.
    NotACa,
    /// The hub's certificate names another issuer, or the CA's signature on it is wrong.
    NotIssuedByCa,
    /// A certificate demands something that this device does not understand.
    UnknownCriticalExtension,
    /// The certificate is not one for servers: it is a CA, or lacks digitalSignature or serverAuth.
    NotAServerCertificate,
    /// The certificate does not hold the name `hub.hearthkey.home.arpa`.
    WrongName,
    /// By the best time known, a certificate is expired or not yet valid.
    OutsideValidity,
    /// The signature over the handshake was not made by the certificate's key.
    WrongSignature,
}

/// Proof that this handshake's server holds the key of a certificate that the trust anchor vouches for.
/// Only [`Verifier::finish`] makes one.
#[derive(Debug)]
pub(super) struct ServerAuthenticated {
    pub(super) home_ca: HomeCa,
    /// SHA-256 of the CA certificate in the handshake; of nothing if none was sent.
    pub(super) ca_sha256: [u8; 32],
}

/// Walks from the trust anchor to a proof, one handshake message at a time.
pub(super) struct Verifier<'a> {
    anchor: TrustAnchor<'a>,
    now: Option<UnixTime>,
    ca_sha256: [u8; 32],
    progress: Progress,
}

enum Progress {
    Nothing,
    CertificateAccepted { hub_key: PublicKey, home_ca: HomeCa, transcript_hash: [u8; 32] },
    KeyProven(HomeCa),
    Refused(Refusal),
}

impl<'a> Verifier<'a> {
    /// `now` is the best time known. `None` skips validity dates, which only a pinned or known home CA justifies, and one that
    /// a person is about to compare.
    pub(super) fn new(anchor: TrustAnchor<'a>, now: Option<UnixTime>) -> Self {
        Self { anchor, now, ca_sha256: [0; 32], progress: Progress::Nothing }
    }

    /// Takes the Certificate message: its chain, leaf first, and the hash of the transcript up to and with it.
    pub(super) fn certificate(&mut self, chain: &[&[u8]], transcript_hash: [u8; 32]) -> Result<(), Refusal> {
        let judged = match self.progress {
            Progress::Nothing => judge_chain(self.anchor, chain, self.now),
            Progress::Refused(refusal) => Err(refusal),
            Progress::CertificateAccepted { .. } | Progress::KeyProven(_) => Err(Refusal::OutOfOrder),
        };
        match judged {
            Ok((hub_key, home_ca)) => {
                self.ca_sha256 = Sha256::digest(chain.get(1).copied().unwrap_or_default()).into();
                self.progress = Progress::CertificateAccepted { hub_key, home_ca, transcript_hash };
                Ok(())
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// Takes the CertificateVerify message: an ecdsa_secp256r1_sha256 signature in DER (RFC 8446 4.4.3).
    pub(super) fn certificate_verify(&mut self, der_signature: &[u8]) -> Result<(), Refusal> {
        match core::mem::replace(&mut self.progress, Progress::Nothing) {
            Progress::CertificateAccepted { hub_key, home_ca, transcript_hash } => {
                let mut content = [0x20; 64 + 34 + 32];
                content[64..98].copy_from_slice(b"TLS 1.3, server CertificateVerify\0");
                content[98..].copy_from_slice(&transcript_hash);
                if hub_key.verifies(&content, der_signature) {
                    self.progress = Progress::KeyProven(home_ca);
                    Ok(())
                } else {
                    self.refuse(Refusal::WrongSignature)
                }
            }
            Progress::Refused(refusal) => self.refuse(refusal),
            Progress::Nothing | Progress::KeyProven(_) => self.refuse(Refusal::OutOfOrder),
        }
    }

    /// The outcome, once the engine says that the handshake is over. An engine that forgot to ask for the certificate
    /// or for the signature leaves no proof here.
    pub(super) fn finish(self) -> Result<ServerAuthenticated, Refusal> {
        match self.progress {
            Progress::KeyProven(home_ca) => Ok(ServerAuthenticated { home_ca, ca_sha256: self.ca_sha256 }),
            Progress::Refused(refusal) => Err(refusal),
            Progress::Nothing | Progress::CertificateAccepted { .. } => Err(Refusal::NotAuthenticated),
        }
    }

    /// The refusal that ended the handshake, if it was ours.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self.progress {
            Progress::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        self.progress = Progress::Refused(refusal);
        Err(refusal)
    }
}

pub(crate) fn judge_chain(
    anchor: TrustAnchor<'_>,
    chain: &[&[u8]],
    now: Option<UnixTime>,
) -> Result<(PublicKey, HomeCa), Refusal> {
    let home_ca = match (anchor, chain) {
        (TrustAnchor::Pinned(hash), [_, ca]) if <[u8; 32]>::from(Sha256::digest(ca)) != *hash => return Err(Refusal::WrongCa),
        (TrustAnchor::Pinned(_) | TrustAnchor::FirstSeen, [_, ca]) => shown_ca(ca)?,
        (TrustAnchor::Known(ca), [_] | [_, _]) => ca.clone(),
        (TrustAnchor::Pinned(_) | TrustAnchor::FirstSeen | TrustAnchor::Known(_), _) => return Err(Refusal::ChainShape),
    };
    let leaf = chain.first().ok_or(Refusal::ChainShape)?;
    let leaf = Certificate::parse(leaf).map_err(|_| Refusal::Malformed)?;
    if leaf.extensions.has_unknown_critical {
        return Err(Refusal::UnknownCriticalExtension);
    }
    let usage = leaf.extensions.key_usage.unwrap_or(0);
    if leaf.extensions.is_ca == Some(true) || usage & DIGITAL_SIGNATURE == 0 || !leaf.extensions.allows_server_authentication() {
        return Err(Refusal::NotAServerCertificate);
    }
    if !leaf.extensions.names_host(HUB_NAME) {
        return Err(Refusal::WrongName);
    }
    let ca_validity = Validity { not_before: home_ca.not_before, not_after: home_ca.not_after };
    if now.is_some_and(|now| !leaf.validity.holds_at(now) || !ca_validity.holds_at(now)) {
        return Err(Refusal::OutsideValidity);
    }
    if leaf.issuer != home_ca.subject || !home_ca.public_key.verifies(leaf.to_be_signed, leaf.signature) {
        return Err(Refusal::NotIssuedByCa);
    }
    Ok((leaf.public_key, home_ca))
}

fn shown_ca(der: &[u8]) -> Result<HomeCa, Refusal> {
    let ca = Certificate::parse(der).map_err(|_| Refusal::Malformed)?;
    if ca.extensions.has_unknown_critical {
        return Err(Refusal::UnknownCriticalExtension);
    }
    if ca.extensions.is_ca != Some(true) || ca.extensions.key_usage.unwrap_or(0) & KEY_CERT_SIGN == 0 {
        return Err(Refusal::NotACa);
    }
    let subject = Vec::from_slice(ca.subject).map_err(|_| Refusal::Malformed)?;
    let Validity { not_before, not_after } = ca.validity;
    Ok(HomeCa { public_key: ca.public_key, subject, not_before, not_after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    use std::vec::Vec;

    fn home() -> (Vec<u8>, Vec<u8>) {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = std::vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let ca_der = ca.self_signed(&key).expect("signs").der().to_vec();
        let issuer = Issuer::new(ca, key);
        let mut hub = CertificateParams::new(std::vec![std::string::String::from(HUB_NAME)]).expect("a name");
        hub.key_usages = std::vec![KeyUsagePurpose::DigitalSignature];
        hub.extended_key_usages = std::vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("a key");
        (hub.signed_by(&key, &issuer).expect("signs").der().to_vec(), ca_der)
    }

    #[test]
    fn a_certificate_with_any_one_bit_changed_or_cut_off_anywhere_is_not_believed() {
        let (hub, ca) = home();
        let hash: [u8; 32] = Sha256::digest(&ca).into();
        let believed = |hub: &[u8]| judge_chain(TrustAnchor::Pinned(&hash), &[hub, &ca], None).is_ok();
        assert!(believed(&hub));
        for at in 0..hub.len() {
            assert!(!believed(&hub[..at]), "cut after {at} bytes");
            let mut changed = hub.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(!believed(&changed), "byte {at}");
        }
    }

    #[test]
    fn the_ca_that_is_seen_first_must_vouch_for_the_server_all_the_same() {
        let ((hub, ca), (_, another_ca)) = (home(), home());
        let judged = |chain: &[&[u8]]| judge_chain(TrustAnchor::FirstSeen, chain, None).err();
        assert_eq!(judged(&[&hub, &ca]), None);
        assert!(matches!(judged(&[&hub, &another_ca]), Some(Refusal::NotIssuedByCa)));
        assert_eq!(judged(&[&hub, &hub]), Some(Refusal::NotACa));
        assert_eq!(judged(&[&hub]), Some(Refusal::ChainShape), "there is nothing to compare");
        assert_eq!(judged(&[&hub, &ca, &ca]), Some(Refusal::ChainShape));
    }

    #[test]
    fn mutated_certificates_never_panic() {
        let (hub, _) = home();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut readable = 0;
        for _ in 0..200_000 {
            let mut der = hub.clone();
            for _ in 0..=random(4) {
                let at = random(der.len());
                der[at] = random(256) as u8;
            }
            der.truncate(der.len() - random(8) / 7 * random(64));
            if let Ok(certificate) = Certificate::parse(&der) {
                readable += 1;
                let _ = certificate.extensions.names_host(HUB_NAME);
                let _ = certificate.extensions.allows_server_authentication();
            }
        }
        assert!(readable > 1_000, "the mutations reach behind the parser: {readable}");
    }

    #[test]
    fn the_messages_of_a_handshake_count_only_in_their_order() {
        let (hub, ca) = home();
        let hash: [u8; 32] = Sha256::digest(&ca).into();
        let fresh = || Verifier::new(TrustAnchor::Pinned(&hash), None);
        let outcome = |verifier: Verifier<'_>| verifier.finish().map(|_| ());
        assert_eq!(outcome(fresh()), Err(Refusal::NotAuthenticated), "nothing came");

        let mut certificate_only = fresh();
        certificate_only.certificate(&[&hub, &ca], [0; 32]).expect("a right chain");
        assert_eq!(outcome(certificate_only), Err(Refusal::NotAuthenticated), "no proof of the key");

        let mut verify_first = fresh();
        assert_eq!(verify_first.certificate_verify(b""), Err(Refusal::OutOfOrder));
        assert_eq!(verify_first.certificate(&[&hub, &ca], [0; 32]), Err(Refusal::OutOfOrder), "once refused, for good");

        let mut twice = fresh();
        twice.certificate(&[&hub, &ca], [0; 32]).expect("a right chain");
        assert_eq!(twice.certificate(&[&hub, &ca], [0; 32]), Err(Refusal::OutOfOrder));

        let mut wrong = fresh();
        wrong.certificate(&[&hub, &ca], [0; 32]).expect("a right chain");
        assert_eq!(wrong.certificate_verify(b"0"), Err(Refusal::WrongSignature));
        assert_eq!(outcome(wrong), Err(Refusal::WrongSignature));
    }
}
