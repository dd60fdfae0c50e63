//! Networks from which an API key may be used. Knows addresses, no sockets.

use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// An address and the number of leading bits that count: `192.168.1.0/24`, `fd00::/8`, `127.0.0.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a network reads like 192.168.1.0/24, fd00::/8 or 127.0.0.1")]
pub struct InvalidNetwork;

impl Network {
    /// Whether an address lies in it. An IPv4 address that came mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                same_prefix(net.to_bits().into(), address.to_bits().into(), 128 - 32 + u32::from(self.prefix), 96)
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => same_prefix(net.to_bits(), address.to_bits(), u32::from(self.prefix), 0),
            _ => false,
        }
    }
}

/// Whether two numbers of 128 bits agree in their first `prefix` bits, of which the first `skip` are zero in both.
fn same_prefix(a: u128, b: u128, prefix: u32, skip: u32) -> bool {
    prefix == skip || (a ^ b).leading_zeros() >= prefix
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), str::parse).map_err(|_| InvalidNetwork)?;
        if prefix <= longest { Ok(Self { address, prefix }) } else { Err(InvalidNetwork) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        network.parse::<Network>().expect(network).contains(address.parse().expect(address))
    }

    #[test]
    fn a_network_holds_the_addresses_with_its_prefix_and_no_others() {
        assert!(contains("192.168.1.0/24", "192.168.1.77") && !contains("192.168.1.0/24", "192.168.2.77"));
        assert!(contains("127.0.0.1", "127.0.0.1") && !contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("fd00::/8", "fd12::1") && !contains("fd00::/8", "fe80::1"));
        assert!(contains("0.0.0.0/0", "8.8.8.8") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "::1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"), "a mapped address is the IPv4 address");
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "a/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
