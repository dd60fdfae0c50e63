//! By which names and addresses a hub may be reached, and thus what its certificate says. Resolves nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls_pki_types::{DnsName, ServerName};

/// The name that a device checks, whatever the hub's address is (RFC 8375; docs/protocol.md).
pub const HUB_NAME: &str = "hub.hearthkey.home.arpa";

/// More names than a home's hub has interfaces; the certificate's size is the tighter bound.
pub const MAX_HUB_NAMES: usize = 32;

/// The names and addresses of a hub, each once, [`HUB_NAME`], `localhost`, `127.0.0.1` and `::1` always among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubNames {
    dns_names: Vec<String>,
    addresses: Vec<IpAddr>,
}

/// A name that no certificate can carry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHubName {
    /// Neither an address nor a DNS name.
    #[error("`{0}` is neither an IP address nor a DNS name: give a name without scheme and port, such as hub.local")]
    NotAName(String),
    /// More than [`MAX_HUB_NAMES`].
    #[error("more than {MAX_HUB_NAMES} hub names")]
    TooMany,
}

impl Default for HubNames {
    fn default() -> Self {
        Self {
            dns_names: vec![HUB_NAME.to_owned(), "localhost".to_owned()],
            addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        }
    }
}

impl HubNames {
    /// Adds a DNS name (kept in lower case) or an IP literal; a name that is there already changes nothing.
    ///
    /// # Errors
    /// [`InvalidHubName`] for anything else, wildcards among it, and beyond [`MAX_HUB_NAMES`].
    pub fn add(&mut self, name: &str) -> Result<(), InvalidHubName> {
        match ServerName::try_from(name) {
            Ok(ServerName::IpAddress(address)) => self.add_address(IpAddr::from(address)),
            Ok(ServerName::DnsName(name)) => self.add_dns_name(&name),
            _ => Err(InvalidHubName::NotAName(name.to_owned())),
        }
    }

    /// Adds an address; one that is there already changes nothing.
    ///
    /// # Errors
    /// [`InvalidHubName::TooMany`] beyond [`MAX_HUB_NAMES`].
    pub fn add_address(&mut self, address: IpAddr) -> Result<(), InvalidHubName> {
        if !self.addresses.contains(&address) {
            self.has_room()?;
            self.addresses.push(address);
        }
        Ok(())
    }

    fn add_dns_name(&mut self, name: &DnsName<'_>) -> Result<(), InvalidHubName> {
        let name = name.as_ref().trim_end_matches('.').to_ascii_lowercase();
        if !self.dns_names.contains(&name) {
            self.has_room()?;
            self.dns_names.push(name);
        }
        Ok(())
    }

    fn has_room(&self) -> Result<(), InvalidHubName> {
        if self.count() < MAX_HUB_NAMES { Ok(()) } else { Err(InvalidHubName::TooMany) }
    }

    /// DNS names in lower case, [`HUB_NAME`] first.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Addresses, loopback first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Names and addresses together, at most [`MAX_HUB_NAMES`].
    pub fn count(&self) -> usize {
        self.dns_names.len() + self.addresses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_always_has_its_fixed_name_and_loopback() {
        let names = HubNames::default();
        assert_eq!(names.dns_names(), [HUB_NAME, "localhost"]);
        assert_eq!(names.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn names_are_lower_case_and_kept_once() {
        let mut names = HubNames::default();
        for name in ["Hub.Local", "hub.local", "hub.local.", "localhost", "192.168.1.7", "192.168.1.7", "::1"] {
            names.add(name).expect("valid");
        }
        assert_eq!(names.dns_names(), [HUB_NAME, "localhost", "hub.local"]);
        assert_eq!(names.addresses().len(), 3);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "https://hub", "hub:8443", "*.local", "a b", "ä", "x\0y", "..", &"a".repeat(64)] {
            let refused = HubNames::default().add(name).expect_err(name);
            assert_eq!(refused, InvalidHubName::NotAName(name.to_owned()));
        }
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let mut names = HubNames::default();
        let added = (0..100u8).filter(|n| names.add(&format!("10.0.0.{n}")).is_ok()).count();
        assert_eq!(added, MAX_HUB_NAMES - 4);
        assert_eq!(names.count(), MAX_HUB_NAMES);
        assert_eq!(names.add("127.0.0.1"), Ok(()), "one that is there already needs no room");
    }
}
