//! The server's half of MQTT 5, just enough to talk to the agent; written apart from the agent's codec on purpose.

/// A packet of the client.
#[derive(Debug, Clone, PartialEq)]
pub enum FromClient {
    Connect(Connect),
    Auth { reason: u8, method: String, data: Vec<u8> },
    Publish { topic: String, payload: Vec<u8>, packet_id: Option<u16>, retain: bool, dup: bool },
    PubAck { packet_id: u16, reason: u8 },
    Subscribe { packet_id: u16, filters: Vec<(String, u8)> },
    PingReq,
    Disconnect(u8),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Connect {
    pub client_identifier: String,
    pub clean_start: bool,
    pub keep_alive: u16,
    pub method: Option<String>,
    pub data: Option<Vec<u8>>,
    pub receive_maximum: u16,
    pub maximum_packet_size: u32,
    pub session_expiry: u32,
    /// Topic, payload, QoS, retain.
    pub will: Option<(String, Vec<u8>, u8, bool)>,
    pub user_name: Option<String>,
    pub password: Option<Vec<u8>>,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }
    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }
    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }
    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }
    fn binary(&mut self) -> &'a [u8] {
        let length = self.u16();
        self.take(usize::from(length))
    }
    fn text(&mut self) -> String {
        String::from_utf8(self.binary().to_vec()).unwrap()
    }
    fn variable(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.u8();
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
}

/// The length of the packet at the front, once its header is there.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let mut value = 0;
    for at in 1..5 {
        let byte = *bytes.get(at)?;
        value |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return Some(at + 1 + value);
        }
    }
    panic!("length of more than four bytes");
}

pub fn parse(packet: &[u8]) -> FromClient {
    assert_eq!(length(packet), Some(packet.len()));
    let mut bytes = Bytes(packet);
    let first = bytes.u8();
    bytes.variable();
    let parsed = match first {
        0x10 => FromClient::Connect(connect(&mut bytes)),
        0xf0 => {
            let reason = bytes.u8();
            let end = bytes.variable();
            let mut properties = Bytes(bytes.take(end));
            assert_eq!(properties.u8(), 0x15);
            let method = properties.text();
            assert_eq!(properties.u8(), 0x16);
            let data = properties.binary().to_vec();
            assert!(properties.0.is_empty());
            FromClient::Auth { reason, method, data }
        }
        0x30..=0x3f => {
            let topic = bytes.text();
            let packet_id = (first & 6 != 0).then(|| bytes.u16());
            assert!(first & 6 <= 2, "QoS 2");
            assert_eq!(bytes.u8(), 0, "no properties");
            let payload = bytes.take(bytes.0.len()).to_vec();
            FromClient::Publish { topic, payload, packet_id, retain: first & 1 != 0, dup: first & 8 != 0 }
        }
        0x40 => {
            let packet_id = bytes.u16();
            let reason = if bytes.0.is_empty() { 0 } else { bytes.u8() };
            FromClient::PubAck { packet_id, reason }
        }
        0x82 => {
            let packet_id = bytes.u16();
            assert_eq!(bytes.u8(), 0, "no properties");
            let mut filters = vec![];
            while !bytes.0.is_empty() {
                filters.push((bytes.text(), bytes.u8()));
            }
            FromClient::Subscribe { packet_id, filters }
        }
        0xc0 => FromClient::PingReq,
        0xe0 => FromClient::Disconnect(if bytes.0.is_empty() { 0 } else { bytes.u8() }),
        other => panic!("packet {other:#x}"),
    };
    assert!(bytes.0.is_empty(), "bytes left over in {parsed:?}");
    parsed
}

fn connect(bytes: &mut Bytes<'_>) -> Connect {
    assert_eq!(bytes.take(7), b"\0\x04MQTT\x05");
    let flags = bytes.u8();
    assert_eq!(flags & 1, 0, "reserved");
    let mut connect = Connect {
        client_identifier: String::new(),
        clean_start: flags & 2 != 0,
        keep_alive: bytes.u16(),
        method: None,
        data: None,
        receive_maximum: u16::MAX,
        maximum_packet_size: u32::MAX,
        session_expiry: 0,
        will: None,
        user_name: None,
        password: None,
    };
    let end = bytes.variable();
    let mut properties = Bytes(bytes.take(end));
    while !properties.0.is_empty() {
        match properties.u8() {
            0x11 => connect.session_expiry = properties.u32(),
            0x15 => connect.method = Some(properties.text()),
            0x16 => connect.data = Some(properties.binary().to_vec()),
            0x21 => connect.receive_maximum = properties.u16(),
            0x27 => connect.maximum_packet_size = properties.u32(),
            other => panic!("property {other:#x}"),
        }
    }
    connect.client_identifier = bytes.text();
    if flags & 4 != 0 {
        assert_eq!(bytes.variable(), 0, "no will properties");
        connect.will = Some((bytes.text(), bytes.binary().to_vec(), flags >> 3 & 3, flags & 0x20 != 0));
    }
    connect.user_name = (flags & 0x80 != 0).then(|| bytes.text());
    connect.password = (flags & 0x40 != 0).then(|| bytes.binary().to_vec());
    connect
}

/// A packet: first byte, length, body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(variable(body.len()));
    out.extend(body);
    out
}

pub fn variable(mut value: usize) -> Vec<u8> {
    let mut out = vec![];
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        out.push(if value == 0 { byte } else { byte | 0x80 });
        if value == 0 {
            return out;
        }
    }
}

pub fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u16).to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

fn property_text(identifier: u8, text: &[u8]) -> Vec<u8> {
    [vec![identifier], binary(text)].concat()
}

fn with_length(properties: Vec<u8>) -> Vec<u8> {
    [variable(properties.len()), properties].concat()
}

fn authentication(data: &[u8], date: Option<u64>) -> Vec<u8> {
    let mut properties = property_text(0x15, b"client_credentials");
    properties.extend(property_text(0x16, data));
    if let Some(date) = date {
        properties.push(0x26);
        properties.extend(binary(b"date"));
        properties.extend(binary(date.to_string().as_bytes()));
    }
    properties
}

/// CONNACK 0x00 with a token response, and `more` properties.
pub fn connack(session_present: bool, token_response: &[u8], date: u64, more: &[u8]) -> Vec<u8> {
    let mut properties = authentication(token_response, Some(date));
    properties.extend(more);
    packet(0x20, &[vec![u8::from(session_present), 0], with_length(properties)].concat())
}

pub fn connack_refused(reason: u8, text: &str) -> Vec<u8> {
    packet(0x20, &[vec![0, reason], with_length(property_text(0x1f, text.as_bytes()))].concat())
}

pub fn auth(reason: u8, data: &[u8], date: Option<u64>) -> Vec<u8> {
    packet(0xf0, &[vec![reason], with_length(authentication(data, date))].concat())
}

pub fn disconnect(reason: u8, text: &str) -> Vec<u8> {
    packet(0xe0, &[vec![reason], with_length(property_text(0x1f, text.as_bytes()))].concat())
}

pub fn puback(packet_id: u16, reason: u8, text: &str) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.push(reason);
    body.extend(with_length(if text.is_empty() { vec![] } else { property_text(0x1f, text.as_bytes()) }));
    packet(0x40, &body)
}

pub fn suback(packet_id: u16, codes: &[u8]) -> Vec<u8> {
    packet(0x90, &[&packet_id.to_be_bytes(), [0].as_slice(), codes].concat())
}

/// PUBLISH of QoS 1.
pub fn publish(topic: &str, payload: &str, packet_id: u16, retain: bool, expiry: Option<u32>) -> Vec<u8> {
    let mut body = binary(topic.as_bytes());
    body.extend(packet_id.to_be_bytes());
    body.extend(with_length(match expiry {
        Some(seconds) => [vec![2], seconds.to_be_bytes().to_vec()].concat(),
        None => vec![],
    }));
    body.extend(payload.as_bytes());
    packet(0x32 | u8::from(retain), &body)
}

pub const PINGRESP: [u8; 2] = [0xd0, 0];
