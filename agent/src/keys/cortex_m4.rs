//! The same operations by p256-cm4: assembler for Cortex-M4 and M33, eight to twenty times faster. Its interface is bare
//! words; what it trusts its caller with is checked here: encodings, ranges, that points lie on the curve, that keys are wiped.
//!
//! Constant in time but not in addresses: a processor with a data cache (an M7, say) should not use it.

use p256::elliptic_curve::{Curve as _, FieldBytesEncoding as _};
use p256::{FieldBytes, NistP256};
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

/// A number of 256 bits, least significant word first.
type Words = [u32; 8];

fn words(bytes: &[u8; 32]) -> Words {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().rev().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    words
}

fn bytes(words: &Words) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words.iter().rev()) {
        *bytes = word.to_be_bytes();
    }
    bytes
}

/// Whether a scalar is in `1..n`.
pub(super) fn is_scalar(scalar: &[u8; 32]) -> bool {
    p256_cm4::check_range_n(&Zeroizing::new(words(scalar)))
}

/// The public point of a scalar; `None` unless that is in `1..n`.
pub(super) fn public(scalar: &[u8; 32]) -> Option<[u8; 64]> {
    let (mut x, mut y) = ([0; 8], [0; 8]);
    let is_valid = p256_cm4::keygen(&mut x, &mut y, &Zeroizing::new(words(scalar)));
    let mut point = [0; 64];
    point[..32].copy_from_slice(&bytes(&x));
    point[32..].copy_from_slice(&bytes(&y));
    is_valid.then_some(point)
}

/// Signs a SHA-256 with the nonce of RFC 6979; `None` if scalar or nonce will not do.
#[inline(never)] // What it leaves on the stack is wiped when it has returned.
pub(super) fn sign(scalar: &[u8; 32], hash: &[u8; 32]) -> Option<[u8; 64]> {
    let order = NistP256::ORDER.encode_field_bytes();
    let mut nonce = rfc6979::generate_k::<Sha256, _>(FieldBytes::from_slice(scalar), &order, FieldBytes::from_slice(hash), &[]);
    let (secret, k) = (Zeroizing::new(words(scalar)), Zeroizing::new(words(nonce.as_ref())));
    nonce.zeroize();
    let (mut r, mut s) = ([0; 8], [0; 8]);
    if !p256_cm4::check_range_n(&secret) || !p256_cm4::sign(&mut r, &mut s, hash, &secret, &k) {
        return None;
    }
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&bytes(&r));
    signature[32..].copy_from_slice(&bytes(&s));
    Some(signature)
}

/// Verifies a signature over a SHA-256. False as well for a point that is not on the curve.
pub(super) fn verifies(point: &[u8; 64], hash: &[u8; 32], r: &[u8; 32], s: &[u8; 32]) -> bool {
    let [x, y] = [0, 1].map(|at| words(&point.as_chunks().0[at]));
    p256_cm4::verify(&x, &y, hash, &words(r), &words(s))
}
