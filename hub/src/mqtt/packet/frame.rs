//! Cuts a byte stream into whole MQTT packets: first byte, remaining length, body. Refuses what no client may send before
//! a byte of the body is read.

use super::{Fault, reason};
use bytes::{Buf, Bytes, BytesMut};

/// A packet's first byte and everything after its remaining length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Packet type and flags.
    pub first: u8,
    /// Variable header and payload.
    pub body: Bytes,
}

/// Packet types (MQTT 5 section 2.1.2).
pub mod packet_type {
    /// CONNECT.
    pub const CONNECT: u8 = 1;
    /// CONNACK.
    pub const CONNACK: u8 = 2;
    /// PUBLISH.
    pub const PUBLISH: u8 = 3;
    /// PUBACK.
    pub const PUBACK: u8 = 4;
    /// PUBREC.
    pub const PUBREC: u8 = 5;
    /// PUBREL.
    pub const PUBREL: u8 = 6;
    /// PUBCOMP.
    pub const PUBCOMP: u8 = 7;
    /// SUBSCRIBE.
    pub const SUBSCRIBE: u8 = 8;
    /// SUBACK.
    pub const SUBACK: u8 = 9;
    /// UNSUBSCRIBE.
    pub const UNSUBSCRIBE: u8 = 10;
    /// UNSUBACK.
    pub const UNSUBACK: u8 = 11;
    /// PINGREQ.
    pub const PINGREQ: u8 = 12;
    /// PINGRESP.
    pub const PINGRESP: u8 = 13;
    /// DISCONNECT.
    pub const DISCONNECT: u8 = 14;
    /// AUTH.
    pub const AUTH: u8 = 15;
}

/// Takes the next whole packet off a buffer; nothing if more bytes must come first.
///
/// # Errors
/// [`Fault`] for a type or flags that no client may send, a remaining length of more than four bytes or not in its shortest
/// form, and a packet of more than `max_packet_bytes`.
pub fn next(buffer: &mut BytesMut, max_packet_bytes: usize) -> Result<Option<Frame>, Fault> {
    let Some(&first) = buffer.first() else { return Ok(None) };
    check_first(first)?;
    let Some((remaining, header_bytes)) = remaining_length(buffer)? else { return Ok(None) };
    let total = header_bytes + remaining;
    if total > max_packet_bytes {
        return Err(Fault { code: reason::PACKET_TOO_LARGE, reason: "packet too large" });
    }
    if buffer.len() < total {
        buffer.reserve(total - buffer.len());
        return Ok(None);
    }
    let mut body = buffer.split_to(total).freeze();
    body.advance(header_bytes);
    Ok(Some(Frame { first, body }))
}

/// Flags are fixed for all types but PUBLISH (MQTT 5 section 2.1.3); CONNACK, SUBACK, UNSUBACK and PINGRESP come from servers.
fn check_first(first: u8) -> Result<(), Fault> {
    use packet_type::{CONNACK, PINGRESP, PUBLISH, PUBREL, SUBACK, SUBSCRIBE, UNSUBACK, UNSUBSCRIBE};
    let flags = first & 0x0F;
    match first >> 4 {
        0 => Err(Fault::malformed("packet type 0 is forbidden")),
        CONNACK | SUBACK | UNSUBACK | PINGRESP => Err(Fault::protocol("a client does not send this packet type")),
        PUBLISH if flags & 0x06 == 0x06 => Err(Fault::malformed("QoS 3")),
        PUBLISH if flags & 0x0E == 0x08 => Err(Fault::malformed("DUP with QoS 0")),
        PUBLISH => Ok(()),
        PUBREL | SUBSCRIBE | UNSUBSCRIBE if flags == 0x02 => Ok(()),
        PUBREL | SUBSCRIBE | UNSUBSCRIBE => Err(Fault::malformed("reserved flags")),
        _ if flags == 0 => Ok(()),
        _ => Err(Fault::malformed("reserved flags")),
    }
}

/// The remaining length and the bytes before the body.
fn remaining_length(buffer: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let mut value = 0_usize;
    for index in 0..4 {
        let Some(&byte) = buffer.get(1 + index) else { return Ok(None) };
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            // MQTT-1.5.5-1: as few bytes as possible.
            return if byte == 0 && index > 0 {
                Err(Fault::malformed("remaining length not in its shortest form"))
            } else {
                Ok(Some((value, 2 + index)))
            };
        }
    }
    Err(Fault::malformed("remaining length of more than four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], max: usize) -> Result<Option<Frame>, Fault> {
        next(&mut BytesMut::from(bytes), max)
    }

    #[test]
    fn a_packet_is_cut_at_its_last_byte_and_not_before() {
        let packet = [0x30, 0x05, 0, 1, b'a', b'x', b'y'];
        for end in 0..packet.len() {
            assert_eq!(cut(&packet[..end], 100), Ok(None));
        }
        let mut buffer = BytesMut::from(&packet[..]);
        buffer.extend_from_slice(&[0xC0]);
        let frame = next(&mut buffer, 100).expect("legal").expect("whole");
        assert_eq!((frame.first, &frame.body[..], &buffer[..]), (0x30, &packet[2..], &[0xC0][..]));
    }

    #[test]
    fn the_size_limit_counts_the_whole_packet() {
        let packet = [0x30, 0x05, 0, 1, b'a', b'x', b'y'];
        assert!(cut(&packet, 7).expect("legal").is_some());
        assert_eq!(cut(&packet, 6).expect_err("too large").code, reason::PACKET_TOO_LARGE);
        assert_eq!(cut(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 1 << 20).expect_err("refused early").code, reason::PACKET_TOO_LARGE);
    }

    #[test]
    fn what_no_client_may_send_is_refused_at_the_first_byte() {
        for first in 0..=0xFF_u8 {
            let legal = match first >> 4 {
                1 | 4 | 5 | 7 | 12 | 14 | 15 => first & 0x0F == 0,
                3 => !matches!(first & 0x0F, 0x06 | 0x07 | 0x0E | 0x0F | 0x08 | 0x09),
                6 | 8 | 10 => first & 0x0F == 2,
                _ => false,
            };
            assert_eq!(cut(&[first], 100).is_ok(), legal, "{first:#04x}");
        }
    }

    #[test]
    fn remaining_lengths_are_exact() {
        assert_eq!(remaining_length(&[0, 0x7F]), Ok(Some((127, 2))));
        assert_eq!(remaining_length(&[0, 0x80, 0x01]), Ok(Some((128, 3))));
        assert_eq!(remaining_length(&[0, 0xFF, 0xFF, 0xFF, 0x7F]), Ok(Some((268_435_455, 5))));
        assert!(remaining_length(&[0, 0x80, 0x00]).is_err());
        assert!(remaining_length(&[0, 0x80, 0x80, 0x80, 0x80]).is_err());
        assert_eq!(remaining_length(&[0, 0x80, 0x80]), Ok(None));
    }
}
