//! The hub's half of MQTT 5 for a virtual world: what the agent says, read; what the hub says, written. From
//! docs/protocol.md, and just enough of it.

/// The authentication method of docs/protocol.md.
pub(super) const METHOD: &str = "client_credentials";
/// Property identifiers of MQTT 5 section 2.2.2.2.
const MESSAGE_EXPIRY: u8 = 0x02;
const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;
const REASON_STRING: u8 = 0x1f;
const USER_PROPERTY: u8 = 0x26;
const SESSION_EXPIRY: u8 = 0x11;
const RECEIVE_MAXIMUM: u8 = 0x21;
const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// PINGRESP.
pub(super) const PINGRESP: [u8; 2] = [0xd0, 0];

/// A packet of the agent.
#[derive(Debug)]
pub(super) enum FromAgent {
    /// Client identifier, keep alive in seconds, authentication data.
    Connect {
        client_identifier: String,
        keep_alive: u16,
        data: Vec<u8>,
    },
    Auth {
        data: Vec<u8>,
    },
    Publish {
        topic: String,
        payload: Vec<u8>,
        packet_id: Option<u16>,
    },
    PubAck {
        packet_id: u16,
        reason_code: u8,
    },
    Subscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    PingReq,
    Disconnect,
}

/// Reads a whole packet; `None` if it makes no sense.
pub(super) fn read(packet: &[u8]) -> Option<FromAgent> {
    let mut bytes = Bytes(packet);
    let first = bytes.u8()?;
    let length = bytes.variable()?;
    if bytes.0.len() != length {
        return None;
    }
    Some(match first {
        0x10 => read_connect(&mut bytes)?,
        0xf0 => {
            bytes.u8()?;
            FromAgent::Auth { data: bytes.properties()?.data }
        }
        0x30..=0x3d => {
            let topic = bytes.text()?;
            let packet_id = if first & 6 == 0 { None } else { Some(bytes.u16()?) };
            bytes.properties()?;
            FromAgent::Publish { topic, payload: bytes.0.to_vec(), packet_id }
        }
        0x40 => {
            let packet_id = bytes.u16()?;
            FromAgent::PubAck { packet_id, reason_code: if bytes.0.is_empty() { 0 } else { bytes.u8()? } }
        }
        0x82 => {
            let packet_id = bytes.u16()?;
            bytes.properties()?;
            let mut filters = Vec::new();
            while !bytes.0.is_empty() {
                filters.push(bytes.text()?);
                bytes.u8()?;
            }
            FromAgent::Subscribe { packet_id, filters }
        }
        0xc0 => FromAgent::PingReq,
        0xe0 => FromAgent::Disconnect,
        _ => return None,
    })
}

fn read_connect(bytes: &mut Bytes<'_>) -> Option<FromAgent> {
    if bytes.take(7)? != b"\0\x04MQTT\x05" {
        return None;
    }
    bytes.u8()?;
    let keep_alive = bytes.u16()?;
    let Authentication { method, data } = bytes.properties()?;
    let client_identifier = bytes.text()?;
    (method == METHOD).then_some(FromAgent::Connect { client_identifier, keep_alive, data })
}

/// CONNACK 0x00 with a token response. Sessions of a virtual hub do not outlive their connection.
pub(super) fn connack(token_response: &[u8], date: u64) -> Vec<u8> {
    let mut properties = authentication(token_response, Some(date));
    properties.extend([SESSION_EXPIRY, 0, 0, 0, 0]);
    packet(0x20, &[vec![0, 0], with_length(properties)].concat())
}

/// CONNACK that refuses.
pub(super) fn connack_refused(reason_code: u8, reason: &str, date: u64) -> Vec<u8> {
    let mut properties = property(REASON_STRING, reason.as_bytes());
    properties.extend(date_property(date));
    packet(0x20, &[vec![0, reason_code], with_length(properties)].concat())
}

/// AUTH 0x18 with the challenge, or 0x00 with a token response.
pub(super) fn auth(reason_code: u8, data: &[u8], date: Option<u64>) -> Vec<u8> {
    packet(0xf0, &[vec![reason_code], with_length(authentication(data, date))].concat())
}

pub(super) fn disconnect(reason_code: u8, reason: &str) -> Vec<u8> {
    packet(0xe0, &[vec![reason_code], with_length(property(REASON_STRING, reason.as_bytes()))].concat())
}

pub(super) fn puback(packet_id: u16, reason_code: u8) -> Vec<u8> {
    let [high, low] = packet_id.to_be_bytes();
    packet(0x40, &[high, low, reason_code, 0])
}

pub(super) fn suback(packet_id: u16, reason_codes: &[u8]) -> Vec<u8> {
    packet(0x90, &[&packet_id.to_be_bytes()[..], &[0], reason_codes].concat())
}

/// PUBLISH of QoS 1, not retained.
pub(super) fn publish(topic: &str, payload: &[u8], packet_id: u16, expiry: u32) -> Vec<u8> {
    let mut body = binary(topic.as_bytes());
    body.extend(packet_id.to_be_bytes());
    body.extend(with_length([&[MESSAGE_EXPIRY][..], &expiry.to_be_bytes()].concat()));
    body.extend(payload);
    packet(0x32, &body)
}

fn authentication(data: &[u8], date: Option<u64>) -> Vec<u8> {
    let mut properties = property(AUTHENTICATION_METHOD, METHOD.as_bytes());
    properties.extend(property(AUTHENTICATION_DATA, data));
    properties.extend(date.map(date_property).unwrap_or_default());
    properties
}

fn date_property(date: u64) -> Vec<u8> {
    [vec![USER_PROPERTY], binary(b"date"), binary(date.to_string().as_bytes())].concat()
}

fn property(identifier: u8, value: &[u8]) -> Vec<u8> {
    [vec![identifier], binary(value)].concat()
}

fn binary(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("what the hub says is short");
    [&length.to_be_bytes(), bytes].concat()
}

fn with_length(properties: Vec<u8>) -> Vec<u8> {
    [variable(properties.len()), properties].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [vec![first], variable(body.len()), body.to_vec()].concat()
}

fn variable(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        out.push(if value == 0 { byte } else { byte | 0x80 });
        if value == 0 {
            return out;
        }
    }
}

struct Bytes<'a>(&'a [u8]);

#[derive(Default)]
struct Authentication {
    method: String,
    data: Vec<u8>,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn binary(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.binary()?.to_vec()).ok()
    }

    fn variable(&mut self) -> Option<usize> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// What the agent sends, and nothing else.
    fn properties(&mut self) -> Option<Authentication> {
        let length = self.variable()?;
        let mut properties = Bytes(self.take(length)?);
        let mut authentication = Authentication::default();
        while !properties.0.is_empty() {
            match properties.u8()? {
                AUTHENTICATION_METHOD => authentication.method = properties.text()?,
                AUTHENTICATION_DATA => authentication.data = properties.binary()?.to_vec(),
                RECEIVE_MAXIMUM => drop(properties.u16()?),
                SESSION_EXPIRY | MAXIMUM_PACKET_SIZE => drop(properties.take(4)?),
                _ => return None,
            }
        }
        Some(authentication)
    }
}
