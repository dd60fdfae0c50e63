//! P-256: making keys, signing, verifying. Here alone a backend is named: p256 by default and as the reference; p256-cm4 with
//! the feature of that name, where the processor is a Cortex-M4 or M33. Knows nothing of certificates, tokens or TLS.

#[cfg_attr(all(feature = "p256-cm4", target_arch = "arm"), path = "keys/cortex_m4.rs")]
#[cfg_attr(not(all(feature = "p256-cm4", target_arch = "arm")), path = "keys/reference.rs")]
mod backend;

use crate::der::{Der, Malformed, SEQUENCE};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use rand_core::{CryptoRng, RngCore};
use rfc6979::HmacDrbg;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

/// The device's secret scalar. Wiped when dropped, never printed.
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl core::fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("SecretKey(redacted)")
    }
}

impl SecretKey {
    /// Draws a key, and derives its public half (the slow part: some 5 million instructions on a Cortex-M4).
    #[must_use]
    pub fn generate(random: &mut Drbg) -> (Self, PublicKey) {
        let mut scalar = Zeroizing::new([0; 32]);
        let coordinates = draw(&mut scalar, random);
        wipe_stack();
        // Copied to where it stays from what is wiped: a move would leave another copy.
        (Self(Zeroizing::new(*scalar)), PublicKey(coordinates))
    }

    /// Takes a scalar from storage; `None` unless it is in `1..n`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        backend::is_scalar(bytes).then(|| Self(Zeroizing::new(*bytes)))
    }

    /// The scalar, for storage only.
    #[must_use]
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Signs `message` by ECDSA with SHA-256 and the nonce of RFC 6979; `r` and `s` side by side, as JWS wants them.
    /// Works from the scalar alone: deriving the public key first would double the cost.
    ///
    /// # Errors
    /// [`SigningFailed`] if the backend refused, which no input is known to cause.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64], SigningFailed> {
        let signature = backend::sign(&self.0, &Sha256::digest(message).into());
        wipe_stack();
        signature.ok_or(SigningFailed)
    }
}

/// Draws a scalar, and derives its point.
#[inline(never)]
fn draw(scalar: &mut [u8; 32], random: &mut Drbg) -> [u8; 64] {
    loop {
        random.fill_bytes(scalar);
        // One draw in 2^32 is not below the order of the group.
        if let Some(coordinates) = backend::public(scalar) {
            // The generator keeps what it gave last.
            random.fill_bytes(&mut [0]);
            return coordinates;
        }
    }
}

/// More than any backend and the hash beneath it take of the stack, in words of four bytes.
const SECRET_STACK: usize = 1024;

/// Overwrites what lies below its caller on the stack: backend and hash leave there what they computed with, scalar and nonce
/// among it. On the emulated board `remains-check` looks for that.
#[inline(never)]
fn wipe_stack() {
    let mut stack = [0_u32; SECRET_STACK];
    stack.zeroize();
    core::hint::black_box(&stack);
}

/// The P-256 backend refused to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SigningFailed;

/// A public key as its two coordinates, 32 bytes each. That it lies on the curve is checked when it verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 64]);

impl PublicKey {
    /// Takes the two coordinates.
    #[must_use]
    pub const fn from_coordinates(coordinates: [u8; 64]) -> Self {
        Self(coordinates)
    }

    /// Takes an uncompressed point of SEC 1: `0x04` and two coordinates.
    #[must_use]
    pub fn from_sec1(bytes: &[u8]) -> Option<Self> {
        let (&4, coordinates) = bytes.split_first()? else {
            return None;
        };
        Some(Self(coordinates.try_into().ok()?))
    }

    /// The two coordinates.
    #[must_use]
    pub const fn coordinates(&self) -> &[u8; 64] {
        &self.0
    }

    /// Checks a DER signature by ECDSA with SHA-256 over `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], der_signature: &[u8]) -> bool {
        let Ok((r, s)) = signature(der_signature) else { return false };
        backend::verifies(&self.0, &Sha256::digest(message).into(), &r, &s)
    }

    /// `x` and `y` in base64url, as a JWK holds them.
    #[must_use]
    pub fn jwk_coordinates(&self) -> [[u8; 43]; 2] {
        let (x, y) = self.0.split_at(32);
        [base64url_32(x), base64url_32(y)]
    }

    /// The JWK thumbprint in base64url (RFC 7638): the `kid` of what this key signs.
    #[must_use]
    pub fn thumbprint(&self) -> [u8; 43] {
        let [x, y] = self.jwk_coordinates();
        let mut hash = Sha256::new();
        hash.update(br#"{"crv":"P-256","kty":"EC","x":""#);
        hash.update(x);
        hash.update(br#"","y":""#);
        hash.update(y);
        hash.update(br#""}"#);
        base64url_32(&hash.finalize())
    }
}

/// `r` and `s` of an ECDSA signature in DER (RFC 3279 2.2.3).
fn signature(der: &[u8]) -> Result<([u8; 32], [u8; 32]), Malformed> {
    let mut outer = Der(der);
    let mut fields = Der(outer.expect(SEQUENCE)?.content);
    outer.end()?;
    let (r, s) = (fields.unsigned()?, fields.unsigned()?);
    fields.end()?;
    Ok((r, s))
}

fn base64url_32(bytes: &[u8]) -> [u8; 43] {
    let mut text = [0; 43];
    // 32 bytes are 43 characters without padding: it fits by construction.
    let _ = Base64UrlUnpadded::encode(bytes, &mut text);
    text
}

/// HMAC_DRBG (NIST SP 800-90A), seeded once per connection from the platform's entropy.
/// Pure given its seed, so a whole device can be replayed from a number.
pub struct Drbg(HmacDrbg<Sha256>);

impl core::fmt::Debug for Drbg {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Drbg(redacted)")
    }
}

impl Drbg {
    /// A generator whose output follows from `seed` alone; `purpose` separates two generators of one seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32], purpose: &str) -> Self {
        Self(HmacDrbg::new(seed, &[], purpose.as_bytes()))
    }

    /// A number in `0..=limit`, even enough for jitter (not for keys).
    pub(crate) fn up_to(&mut self, limit: u64) -> u64 {
        let drawn = u128::from(self.next_u64());
        ((drawn * (u128::from(limit) + 1)) >> 64) as u64
    }
}

impl RngCore for Drbg {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill_bytes(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Drbg {}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::ecdsa::Signature;
    use p256::elliptic_curve::sec1::ToEncodedPoint as _;

    #[test]
    fn what_a_key_signs_its_public_half_verifies_and_nothing_else() {
        let mut random = Drbg::from_seed(&[7; 32], "test");
        let (secret, public) = SecretKey::generate(&mut random);
        let (_, other) = SecretKey::generate(&mut random);
        let signature = secret.sign(b"message").expect("a valid key signs");
        let der = Signature::from_slice(&signature).expect("64 bytes").to_der();
        assert!(public.verifies(b"message", der.as_bytes()));
        assert!(!public.verifies(b"massage", der.as_bytes()));
        assert!(!other.verifies(b"message", der.as_bytes()));
        assert!(!PublicKey([9; 64]).verifies(b"message", der.as_bytes()), "not on the curve");
    }

    #[test]
    fn a_key_survives_storage_and_a_bad_scalar_is_refused() {
        let (secret, _) = SecretKey::generate(&mut Drbg::from_seed(&[1; 32], "test"));
        let again = SecretKey::from_bytes(secret.as_bytes()).expect("stored by us");
        assert_eq!(again.sign(b"m"), secret.sign(b"m"));
        assert!(SecretKey::from_bytes(&[0; 32]).is_none());
        assert!(SecretKey::from_bytes(&[0xff; 32]).is_none());
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        // Computed with an independent tool over {"crv":…,"kty":…,"x":…,"y":…} of the generator point.
        let generator = p256::AffinePoint::GENERATOR.to_encoded_point(false);
        let key = PublicKey::from_sec1(generator.as_bytes()).expect("uncompressed");
        let [x, y] = key.jwk_coordinates();
        let json = std::format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            core::str::from_utf8(&x).expect("ascii"),
            core::str::from_utf8(&y).expect("ascii")
        );
        assert_eq!(key.thumbprint(), base64url_32(&Sha256::digest(json)));
    }
}
