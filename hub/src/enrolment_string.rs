//! The enrolment string (docs/protocol.md): all that a device must be told, in one line.

use base64ct::{Base64UrlUnpadded, Encoding};
use hearthkey_core::secret::Secret;

/// Longest host, in bytes.
pub const MAX_HOST_BYTES: usize = 64;

/// Where devices reach the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// DNS name or IP literal.
    pub host: String,
    /// Port of the HTTPS listener.
    pub https_port: u16,
    /// Port of the MQTT listener with TLS.
    pub mqtts_port: u16,
}

/// The enrolment string for a code.
#[must_use]
pub fn encode(ca_sha256: &[u8; 32], code: &[u8; 16], address: &Address) -> Secret {
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(52 + MAX_HOST_BYTES));
    bytes.extend_from_slice(ca_sha256);
    bytes.extend_from_slice(code);
    bytes.extend_from_slice(&address.https_port.to_be_bytes());
    bytes.extend_from_slice(&address.mqtts_port.to_be_bytes());
    bytes.extend_from_slice(address.host.as_bytes());
    Secret::new(format!("hk1.{}", Base64UrlUnpadded::encode_string(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enrolment_string_is_written_as_the_golden_vectors_say() {
        let vectors = include_str!("../../tests/vectors/enrolment.txt").lines().filter(|line| !line.starts_with('#'));
        let mut written = 0;
        for line in vectors {
            let words: Vec<&str> = line.split(' ').collect();
            let [string, ca_sha256, code, https_port, mqtts_port, host] = words[..] else { panic!("six words: {line}") };
            let bytes = |hex: &str| -> Vec<u8> {
                hex.as_bytes()
                    .chunks(2)
                    .map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("hex"))
                    .collect()
            };
            let port = |text: &str| text.parse().expect("a port");
            let address = Address { host: host.to_owned(), https_port: port(https_port), mqtts_port: port(mqtts_port) };
            let ca_sha256 = bytes(ca_sha256).try_into().expect("32 bytes");
            let code = bytes(code).try_into().expect("16 bytes");
            assert_eq!(encode(&ca_sha256, &code, &address).expose(), string);
            written += 1;
        }
        assert!(written >= 5, "{written} vectors");
    }

    #[test]
    fn the_string_holds_pin_code_ports_and_host_in_this_order() {
        let address = Address { host: "hub".to_owned(), https_port: 8443, mqtts_port: 8883 };
        let secret = encode(&[1; 32], &[2; 16], &address);
        let bytes = Base64UrlUnpadded::decode_vec(secret.expose().strip_prefix("hk1.").expect("prefix")).expect("base64url");
        assert_eq!(bytes, [&[1; 32][..], &[2; 16], &[0x20, 0xfb, 0x22, 0xb3], b"hub"].concat());
    }
}
