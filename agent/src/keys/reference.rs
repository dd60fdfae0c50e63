//! The same operations by p256: portable, and what the other backend is held to.

use ecdsa::hazmat::SignPrimitive as _;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::{EncodedPoint, NonZeroScalar};
use sha2::Sha256;
use zeroize::Zeroizing;

fn scalar(bytes: &[u8; 32]) -> Option<Zeroizing<NonZeroScalar>> {
    Option::from(NonZeroScalar::from_repr((*bytes).into())).map(Zeroizing::new)
}

/// Whether a scalar is in `1..n`.
pub(super) fn is_scalar(bytes: &[u8; 32]) -> bool {
    scalar(bytes).is_some()
}

/// The public point of a scalar; `None` unless that is in `1..n`.
pub(super) fn public(bytes: &[u8; 32]) -> Option<[u8; 64]> {
    let point = p256::PublicKey::from_secret_scalar(&*scalar(bytes)?).to_encoded_point(false);
    // An uncompressed point is 0x04 and two coordinates.
    point.as_bytes().get(1..)?.try_into().ok()
}

/// Signs a SHA-256 with the nonce of RFC 6979. Works from the scalar alone: deriving the public key first would double the cost.
#[inline(never)] // What it leaves on the stack is wiped when it has returned.
pub(super) fn sign(bytes: &[u8; 32], hash: &[u8; 32]) -> Option<[u8; 64]> {
    let (signature, _) = scalar(bytes)?.try_sign_prehashed_rfc6979::<Sha256>(hash.into(), &[]).ok()?;
    Some(signature.to_bytes().into())
}

/// Verifies a signature over a SHA-256. False as well for a point that is not on the curve.
pub(super) fn verifies(point: &[u8; 64], hash: &[u8; 32], r: &[u8; 32], s: &[u8; 32]) -> bool {
    let Ok(key) = VerifyingKey::from_encoded_point(&EncodedPoint::from_untagged_bytes(&(*point).into())) else { return false };
    Signature::from_scalars(*r, *s).is_ok_and(|signature| key.verify_prehash(hash, &signature).is_ok())
}
