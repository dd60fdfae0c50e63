//! Key exchange by p256-cm4. What that trusts its caller with is checked here: encodings, ranges, that the other's point lies
//! on the curve; secrets are wiped.

use crate::elliptic_curve::Error;
use crate::{EncodedPoint, FieldBytes};

/// A number of 256 bits, least significant word first.
type Words = [u32; 8];

/// A point on the curve, as its coordinates.
pub struct PublicKey {
    x: Words,
    y: Words,
}

impl PublicKey {
    /// Takes an uncompressed point of SEC 1, the only encoding that TLS 1.3 knows (RFC 8446 4.2.8.2).
    ///
    /// # Errors
    /// For everything else, and for a point that is not on the curve.
    pub fn from_sec1_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let (mut x, mut y) = ([0; 8], [0; 8]);
        // The length is what p256-cm4 takes on trust.
        let is_uncompressed = bytes.len() == 65 && bytes.first() == Some(&4);
        if is_uncompressed && p256_cm4::octet_string_to_point(&mut x, &mut y, bytes) { Ok(Self { x, y }) } else { Err(Error) }
    }
}

impl From<&PublicKey> for EncodedPoint {
    fn from(key: &PublicKey) -> Self {
        let mut bytes = [0; 65];
        p256_cm4::point_to_octet_string_uncompressed(&mut bytes, &key.x, &key.y);
        let mut coordinates = [0; 64];
        coordinates.copy_from_slice(&bytes[1..]);
        Self::from_untagged_bytes(&coordinates.into())
    }
}

pub mod ecdh {
    //! Elliptic-curve Diffie-Hellman with keys of one use.

    use super::{FieldBytes, PublicKey, Words};
    use crate::elliptic_curve::rand_core::CryptoRngCore;
    use zeroize::{Zeroize as _, Zeroizing};

    /// A secret scalar and its public point. Wiped when dropped.
    pub struct EphemeralSecret {
        scalar: Zeroizing<Words>,
        public: PublicKey,
    }

    impl EphemeralSecret {
        /// Draws a secret.
        pub fn random(random: &mut impl CryptoRngCore) -> Self {
            let mut key = Self { scalar: Zeroizing::new([0; 8]), public: PublicKey { x: [0; 8], y: [0; 8] } };
            key.draw(random);
            wipe_stack();
            // Copied from what is wiped: a move would leave another copy.
            Self { scalar: Zeroizing::new(*key.scalar), public: key.public_key() }
        }

        #[inline(never)]
        fn draw(&mut self, random: &mut impl CryptoRngCore) {
            let mut bytes = Zeroizing::new([0; 32]);
            loop {
                random.fill_bytes(&mut *bytes);
                for (word, bytes) in self.scalar.iter_mut().rev().zip(bytes.chunks_exact(4)) {
                    *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
                // False once in 2^32: not below the order of the group.
                if p256_cm4::keygen(&mut self.public.x, &mut self.public.y, &self.scalar) {
                    // A generator may keep what it gave last.
                    random.fill_bytes(&mut [0]);
                    return;
                }
            }
        }

        /// Its public point.
        #[must_use]
        pub fn public_key(&self) -> PublicKey {
            PublicKey { x: self.public.x, y: self.public.y }
        }

        /// What the two agree on.
        #[must_use]
        pub fn diffie_hellman(&self, other: &PublicKey) -> SharedSecret {
            let mut shared = Zeroizing::new([0; 32]);
            self.agree(other, &mut shared);
            wipe_stack();
            SharedSecret(*FieldBytes::from_slice(&*shared))
        }

        #[inline(never)]
        fn agree(&self, other: &PublicKey, shared: &mut [u8; 32]) {
            // False only for a point that is not on the curve, which no `PublicKey` is; an all-zero secret would let nobody in.
            let is_on_curve = p256_cm4::ecdh_calc_shared_secret(shared, &self.scalar, &other.x, &other.y);
            assert!(is_on_curve, "a public key is on the curve");
        }
    }

    /// More than p256-cm4 takes of the stack, in words of four bytes.
    const SECRET_STACK: usize = 1024;

    /// Overwrites what lies below its caller on the stack: p256-cm4 leaves there what it computed with.
    #[inline(never)]
    fn wipe_stack() {
        let mut stack = [0_u32; SECRET_STACK];
        stack.zeroize();
        core::hint::black_box(&stack);
    }

    /// The x coordinate that two have agreed on. Wiped when dropped.
    pub struct SharedSecret(FieldBytes);

    impl SharedSecret {
        /// Its bytes: not evenly distributed, to derive keys from.
        #[must_use]
        pub fn raw_secret_bytes(&self) -> &FieldBytes {
            &self.0
        }
    }

    impl Drop for SharedSecret {
        fn drop(&mut self) {
            self.0.zeroize();
        }
    }
}
