//! Properties of MQTT 5 packets (section 2.2.2): one reader for every packet, which knows each identifier's type,
//! and refuses what the packet must not hold or holds twice.

use super::codec::DecodeError;

/// Reads fields of a packet from the front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Malformed("packet ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Malformed("packet ends early"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 string without U+0000 (section 1.5.4).
    pub(super) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let text = core::str::from_utf8(self.binary()?).map_err(|_| DecodeError::Malformed("string is not UTF-8"))?;
        if text.contains('\0') { Err(DecodeError::Malformed("string holds U+0000")) } else { Ok(text) }
    }

    /// A variable byte integer in its shortest form (section 1.5.5).
    pub(super) fn variable_integer(&mut self) -> Result<u32, DecodeError> {
        match variable_integer(self.0)? {
            Some((value, length)) => {
                self.take(length)?;
                Ok(value)
            }
            None => Err(DecodeError::Malformed("packet ends early")),
        }
    }

    pub(super) fn properties(&mut self) -> Result<Properties<'a>, DecodeError> {
        let length = self.variable_integer()? as usize;
        Ok(Properties { rest: Reader(self.take(length)?), seen: 0 })
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Malformed("bytes after the end of the packet")) }
    }
}

/// A variable byte integer at the front of `bytes` and its length; `None` while its last byte is missing.
pub(super) fn variable_integer(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0_u32;
    for at in 0..4 {
        let Some(&byte) = bytes.get(at) else {
            return Ok(None);
        };
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return if byte == 0 && at > 0 {
                Err(DecodeError::Malformed("length not in its shortest form"))
            } else {
                Ok(Some((value, at + 1)))
            };
        }
    }
    Err(DecodeError::Malformed("length of more than four bytes"))
}

/// The properties that concern us, with their values; the others of their packet are read and left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Property<'a> {
    MessageExpiryInterval(u32),
    SessionExpiryInterval(u32),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    ReasonString(&'a str),
    ReceiveMaximum(u16),
    MaximumQos(u8),
    RetainAvailable(bool),
    User(&'a str, &'a str),
    MaximumPacketSize(u32),
    ServerKeepAlive(u16),
    TopicAlias,
    Other,
}

/// Which identifiers a packet may hold, as bits.
pub(super) const fn allowed(identifiers: &[u8]) -> u64 {
    let mut bits = 0;
    let mut at = 0;
    while at < identifiers.len() {
        bits |= 1 << identifiers[at];
        at += 1;
    }
    bits
}

pub(super) const CONNACK: u64 =
    allowed(&[0x11, 0x12, 0x13, 0x15, 0x16, 0x1a, 0x1c, 0x1f, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a]);
pub(super) const PUBLISH: u64 = allowed(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x23, 0x26]);
pub(super) const ACKNOWLEDGEMENT: u64 = allowed(&[0x1f, 0x26]);
pub(super) const DISCONNECT: u64 = allowed(&[0x1c, 0x1f, 0x26]);
pub(super) const AUTH: u64 = allowed(&[0x15, 0x16, 0x1f, 0x26]);
/// These may come more than once: User Property, Subscription Identifier.
const REPEATABLE: u64 = allowed(&[0x26, 0x0b]);

/// The properties of one packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Properties<'a> {
    rest: Reader<'a>,
    seen: u64,
}

impl<'a> Properties<'a> {
    /// The next property, of those that `allowed` names.
    pub(super) fn next(&mut self, allowed: u64) -> Result<Option<Property<'a>>, DecodeError> {
        if self.rest.0.is_empty() {
            return Ok(None);
        }
        // Identifiers are variable byte integers, but none above 0x2a exists.
        let identifier = self.rest.u8()?;
        let bit = if identifier < 64 { 1_u64 << identifier } else { 0 };
        if allowed & bit == 0 {
            return Err(DecodeError::Malformed("property that its packet must not hold"));
        }
        if self.seen & bit & !REPEATABLE != 0 {
            return Err(DecodeError::Protocol("property twice"));
        }
        self.seen |= bit;
        let rest = &mut self.rest;
        let property = match identifier {
            0x02 => Property::MessageExpiryInterval(rest.u32()?),
            0x11 => Property::SessionExpiryInterval(rest.u32()?),
            0x15 => Property::AuthenticationMethod(rest.string()?),
            0x16 => Property::AuthenticationData(rest.binary()?),
            0x1f => Property::ReasonString(rest.string()?),
            0x21 => match rest.u16()? {
                0 => return Err(DecodeError::Protocol("Receive Maximum of zero")),
                maximum => Property::ReceiveMaximum(maximum),
            },
            0x24 => match rest.u8()? {
                qos @ 0..=1 => Property::MaximumQos(qos),
                _ => return Err(DecodeError::Protocol("Maximum QoS above 1")),
            },
            0x25 => Property::RetainAvailable(boolean(rest)?),
            0x26 => Property::User(rest.string()?, rest.string()?),
            0x27 => match rest.u32()? {
                0 => return Err(DecodeError::Protocol("Maximum Packet Size of zero")),
                size => Property::MaximumPacketSize(size),
            },
            0x13 => Property::ServerKeepAlive(rest.u16()?),
            0x23 => {
                rest.u16()?;
                Property::TopicAlias
            }
            0x01 | 0x28 | 0x29 | 0x2a => {
                boolean(rest)?;
                Property::Other
            }
            0x22 => {
                rest.u16()?;
                Property::Other
            }
            0x0b => match rest.variable_integer()? {
                0 => return Err(DecodeError::Protocol("Subscription Identifier of zero")),
                _ => Property::Other,
            },
            0x03 | 0x08 | 0x12 | 0x1a | 0x1c => {
                rest.string()?;
                Property::Other
            }
            0x09 => {
                rest.binary()?;
                Property::Other
            }
            _ => return Err(DecodeError::Malformed("unknown property")),
        };
        Ok(Some(property))
    }
}

fn boolean(rest: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match rest.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Protocol("property that is neither 0 nor 1")),
    }
}
