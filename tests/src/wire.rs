//! MQTT byte by byte: what no well-behaved client sends, and what foreign libraries do not show.

use std::io;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::hub::Hub;
use crate::patience::within;

/// A connection that carries raw packets.
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
}

/// A packet as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Type and flags.
    pub first: u8,
    /// All after the remaining length.
    pub body: Vec<u8>,
}

/// What a CONNECT says.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Client identifier.
    pub client_identifier: String,
    /// Protocol version, 4 or 5.
    pub version: u8,
    /// Password, if any.
    pub password: Option<Vec<u8>>,
    /// Authentication method and data (MQTT 5).
    pub method: Option<(String, Vec<u8>)>,
    /// Will: topic and payload, QoS 0, not retained.
    pub will: Option<(String, String)>,
    /// Whether the session goes on where it was, and is kept for an hour (MQTT 5).
    pub is_kept: bool,
}

impl Wire<TlsStream<TcpStream>> {
    /// A connection to MQTT over TLS.
    ///
    /// # Panics
    /// When the hub cannot prove itself.
    pub async fn tls(hub: &Hub) -> Self {
        let stream = tls(hub, hub.ports().mqtts).await.expect("the hub proves itself");
        Self { stream }
    }
}

impl Wire<TcpStream> {
    /// A connection to MQTT without TLS.
    ///
    /// # Panics
    /// When nothing listens.
    pub async fn plain(hub: &Hub) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", hub.ports().mqtt)).await.expect("the hub listens");
        Self { stream }
    }
}

/// A TLS connection to a port of the hub.
///
/// # Errors
/// When the hub closes or cannot prove itself.
///
/// # Panics
/// When nothing listens.
pub async fn tls(hub: &Hub, port: u16) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the hub listens");
    let name = ServerName::try_from("localhost").expect("a name");
    within("a TLS handshake", TlsConnector::from(hub.tls()).connect(name, stream)).await
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Sends bytes; that the hub has closed meanwhile shows when they are read.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// The next packet; none when the hub closed or reset the connection.
    ///
    /// # Panics
    /// When nothing comes.
    pub async fn receive(&mut self) -> Option<Packet> {
        within("a packet or the end", async {
            let first = self.stream.read_u8().await.ok()?;
            let (mut length, mut shift) = (0_usize, 0);
            loop {
                let byte = self.stream.read_u8().await.ok()?;
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Packet { first, body })
        })
        .await
    }

    /// All bytes until the hub closes or resets the connection.
    ///
    /// # Panics
    /// When it stays open.
    pub async fn until_closed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        within("the end of the connection", async {
            // However it ends, it ends.
            let _ = self.stream.read_to_end(&mut bytes).await;
        })
        .await;
        bytes
    }

    /// Sends a CONNECT and answers the next packet.
    ///
    /// # Panics
    /// When the hub closes instead.
    pub async fn connect(&mut self, connect: &Connect) -> Packet {
        self.send(&connect.packet()).await;
        self.receive().await.expect("an answer to CONNECT")
    }
}

impl Connect {
    /// MQTT 5, clean start, by password.
    pub fn by_password(client_identifier: &str, password: &str) -> Self {
        Self {
            client_identifier: client_identifier.to_owned(),
            version: 5,
            password: Some(password.as_bytes().to_vec()),
            method: None,
            will: None,
            is_kept: false,
        }
    }

    /// MQTT 5, clean start, by an authentication method.
    pub fn by_method(client_identifier: &str, method: &str, data: &[u8]) -> Self {
        Self { password: None, method: Some((method.to_owned(), data.to_vec())), ..Self::by_password(client_identifier, "") }
    }

    /// The packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut body = string("MQTT");
        let flags = u8::from(!self.is_kept) << 1
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.password.is_some() && self.version == 4) << 7
            | u8::from(self.will.is_some()) << 2;
        body.extend([self.version, flags, 0, 60]);
        if self.version == 5 {
            let mut properties = if self.is_kept { vec![0x11, 0, 0, 0x0e, 0x10] } else { Vec::new() };
            if let Some((method, data)) = &self.method {
                properties.push(0x15);
                properties.extend(string(method));
                properties.push(0x16);
                properties.extend(binary(data));
            }
            body.extend(integer(properties.len()));
            body.extend(properties);
        }
        body.extend(string(&self.client_identifier));
        if let Some((topic, payload)) = &self.will {
            if self.version == 5 {
                body.push(0);
            }
            body.extend(string(topic));
            body.extend(binary(payload.as_bytes()));
        }
        if let Some(password) = &self.password {
            if self.version == 4 {
                body.extend(string(&self.client_identifier));
            }
            body.extend(binary(password));
        }
        packet(0x10, &body)
    }
}

impl Packet {
    /// Reason code of a CONNACK.
    ///
    /// # Panics
    /// When it is none.
    pub fn connack_code(&self) -> u8 {
        assert_eq!(self.first, 0x20, "no CONNACK: {self:?}");
        self.body[1]
    }

    /// Reason code of a DISCONNECT.
    ///
    /// # Panics
    /// When it is none.
    pub fn disconnect_code(&self) -> u8 {
        assert_eq!(self.first, 0xe0, "no DISCONNECT: {self:?}");
        self.body.first().copied().unwrap_or_default()
    }

    /// Whether the text stands in it.
    pub fn says(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(text)
    }
}

/// A PUBLISH of QoS 1.
pub fn publish(version: u8, topic: &str, payload: &[u8], packet_identifier: u16) -> Vec<u8> {
    let mut body = string(topic);
    body.extend(packet_identifier.to_be_bytes());
    if version == 5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x32, &body)
}

/// A SUBSCRIBE for one filter at QoS 1.
pub fn subscribe(version: u8, filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    if version == 5 {
        body.push(0);
    }
    body.extend(string(filter));
    body.push(1);
    packet(0x82, &body)
}

/// A packet with its remaining length.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(integer(body.len()));
    out.extend(body);
    out
}

/// UTF-8 string.
pub fn string(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

/// Binary data.
///
/// # Panics
/// When it is too long for MQTT.
pub fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).expect("at most 65,535 bytes").to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

/// Variable byte integer.
pub fn integer(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}
