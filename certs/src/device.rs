//! The public key of a device, checked to be a point of P-256. The private key stays on the device.

use rcgen::PublicKeyData;

/// A P-256 public key that is known to be on the curve.
#[derive(Clone, PartialEq, Eq)]
pub struct DevicePublicKey {
    uncompressed_point: [u8; 65],
}

/// The bytes are no P-256 public key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a P-256 public key")]
pub struct InvalidPublicKey;

impl DevicePublicKey {
    /// From the coordinates of a JSON Web Key (RFC 7518 section 6.2.1), big endian.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] when the point is not on the curve.
    pub fn from_coordinates(x: &[u8; 32], y: &[u8; 32]) -> Result<Self, InvalidPublicKey> {
        let mut point = [0x04; 65];
        point[1..33].copy_from_slice(x);
        point[33..].copy_from_slice(y);
        Self::from_uncompressed_point(&point)
    }

    /// From `04 || x || y` (SEC 1 section 2.3.3).
    ///
    /// # Errors
    /// [`InvalidPublicKey`] for any other form, and when the point is not on the curve.
    pub fn from_uncompressed_point(point: &[u8]) -> Result<Self, InvalidPublicKey> {
        let uncompressed_point: [u8; 65] = point.try_into().map_err(|_| InvalidPublicKey)?;
        p256::PublicKey::from_sec1_bytes(point).map_err(|_| InvalidPublicKey)?;
        Ok(Self { uncompressed_point })
    }

    /// From a DER SubjectPublicKeyInfo (RFC 5480) with a named curve and an uncompressed point.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] for other algorithms, curves and encodings.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, InvalidPublicKey> {
        // The point ends the structure, and DER leaves one encoding of what precedes it.
        let point = spki.last_chunk::<65>().ok_or(InvalidPublicKey)?;
        let key = Self::from_uncompressed_point(point)?;
        if key.subject_public_key_info() == spki { Ok(key) } else { Err(InvalidPublicKey) }
    }
}

impl std::fmt::Debug for DevicePublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DevicePublicKey(P-256 ")?;
        self.uncompressed_point[1..9].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}

impl PublicKeyData for DevicePublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.uncompressed_point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_point() -> Vec<u8> {
        rcgen::KeyPair::generate().expect("entropy").public_key_raw().to_vec()
    }

    #[test]
    fn all_three_forms_of_one_key_are_equal() {
        let point = some_point();
        let x: [u8; 32] = point[1..33].try_into().expect("32 bytes");
        let y: [u8; 32] = point[33..].try_into().expect("32 bytes");
        let key = DevicePublicKey::from_uncompressed_point(&point).expect("on the curve");
        assert_eq!(DevicePublicKey::from_coordinates(&x, &y), Ok(key.clone()));
        assert_eq!(DevicePublicKey::from_spki_der(&key.subject_public_key_info()), Ok(key));
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let mut point = some_point();
        point[64] ^= 1;
        assert_eq!(DevicePublicKey::from_uncompressed_point(&point), Err(InvalidPublicKey));
        assert_eq!(DevicePublicKey::from_coordinates(&[0; 32], &[0; 32]), Err(InvalidPublicKey));
    }

    #[test]
    fn compressed_truncated_and_foreign_keys_are_refused() {
        let point = some_point();
        let mut compressed = point[..33].to_vec();
        compressed[0] = 0x02;
        for bytes in [&compressed[..], &point[..64], &[], &[0x00]] {
            assert_eq!(DevicePublicKey::from_uncompressed_point(bytes), Err(InvalidPublicKey));
        }
        let other_curve = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("entropy");
        assert_eq!(DevicePublicKey::from_spki_der(&other_curve.subject_public_key_info()), Err(InvalidPublicKey));
    }
}
