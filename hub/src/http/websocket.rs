//! MQTT over WebSocket at `/mqtt` (MQTT 5 section 6, RFC 6455): who may open one, and how frames become the bytes of a
//! connection that the MQTT front serves as any other. Knows nothing of packets.
//!
//! A browser says from which page it comes (`Origin`). The hub's own pages and those that the owner named may connect, others
//! not: credentials are in CONNECT and no browser adds them by itself, but a foreign page has no business here. Programs
//! send no `Origin`.

use super::{
    Http,
    limits::{MAX_WEBSOCKETS, MAX_WEBSOCKETS_PER_SOURCE, RETRY_AFTER_FULL, WEBSOCKET_FRAME_BYTES},
    problem::Problem,
    request::{Peer, shown},
    shares::{NoneLeft, Shares},
};
use crate::{config::Origin, throttle::share};
use axum::{
    Extension,
    body::Bytes,
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use futures_util::{Sink, Stream};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// All WebSockets of now, by source.
pub(super) type Websockets = Shares<IpAddr>;

/// The sub-protocol (MQTT-6.0.0-4).
const MQTT: &str = "mqtt";
/// What is read from the network at once: most packets are smaller, and an idle connection holds this.
const READ_BYTES: usize = 4 * 1024;
/// The fixed header of an MQTT packet.
const FIXED_HEADER_BYTES: usize = 5;

/// `GET /mqtt`.
pub(super) async fn upgrade(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|rejection| {
        let detail = format!("here is MQTT over WebSocket, over HTTP/1.1 and with sub-protocol mqtt: {}", rejection.body_text());
        Problem::new(StatusCode::UPGRADE_REQUIRED, detail)
    })?;
    if !upgrade.requested_protocols().any(|protocol| protocol == MQTT) {
        return Err(Problem::bad_request("offer the sub-protocol mqtt (Sec-WebSocket-Protocol)"));
    }
    if let Err(Foreign(origin)) = admit_origin(&headers, &http.surroundings.websocket_origins) {
        let detail = format!("pages of {} may not connect; the owner can name them: [websocket] origins", shown(&origin));
        return Err(Problem::new(StatusCode::FORBIDDEN, detail).coded("foreign_origin"));
    }
    let front = http.surroundings.front.clone().ok_or_else(|| Problem::unavailable("this hub has no MQTT front"))?;
    let place = http.websockets.take(share(peer.source)).map_err(|none_left| match none_left {
        NoneLeft::ForHolder => {
            let detail = format!("{} has {MAX_WEBSOCKETS_PER_SOURCE} WebSockets open already; close one", peer.source);
            Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).coded("too_many_websockets").retry_after(RETRY_AFTER_FULL)
        }
        NoneLeft::AtAll => Problem::unavailable(format!("the hub has {MAX_WEBSOCKETS} WebSockets open already")),
    })?;
    let largest = front.limits().max_packet_bytes + FIXED_HEADER_BYTES;
    let upgrade = upgrade
        .protocols([MQTT])
        .max_frame_size(largest)
        .max_message_size(largest)
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * WEBSOCKET_FRAME_BYTES);
    Ok(upgrade.on_upgrade(async move |socket| {
        front.serve_connection(ByteStream::new(socket), SocketAddr::new(peer.source, 0)).await;
        // Until here it counts as a request that is being answered.
        drop((place, peer));
    }))
}

/// A page that may not connect.
#[derive(Debug, PartialEq, Eq)]
struct Foreign(String);

/// Whether the page from which a request comes may connect, if it comes from a page.
fn admit_origin(headers: &HeaderMap, others: &[Origin]) -> Result<(), Foreign> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let origin = String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase();
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // The certificate vouches for the name: no page of another can be served under it.
    let is_own = own.is_some_and(|host| origin.strip_prefix("https://").is_some_and(|site| site.eq_ignore_ascii_case(host)));
    let is_known = is_own || others.iter().any(|other| other.as_str() == origin);
    if is_known && origins.next().is_none() { Ok(()) } else { Err(Foreign(origin)) }
}

/// A WebSocket as a stream of bytes: binary frames, of which one waits in each direction at most.
struct ByteStream {
    socket: WebSocket,
    unread: Bytes,
    /// Why the peer is told that this ends, other than that it ended.
    fault: Option<CloseFrame>,
    state: Writing,
}

#[derive(PartialEq, Eq)]
enum Writing {
    Flushed,
    Unflushed,
    Closing,
}

impl ByteStream {
    fn new(socket: WebSocket) -> Self {
        Self { socket, unread: Bytes::new(), fault: None, state: Writing::Flushed }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, message: impl FnOnce() -> Message) -> Poll<io::Result<()>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(context)).map_err(io::Error::other)?;
        Poll::Ready(socket.start_send(message()).map_err(io::Error::other))
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(Pin::new(&mut this.socket).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => this.unread = bytes,
                // MQTT-6.0.0-1
                Some(Ok(Message::Text(_))) => {
                    let reason = "MQTT comes in binary frames";
                    this.fault = Some(CloseFrame { code: close_code::UNSUPPORTED, reason: reason.into() });
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
                }
                // Answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => {
                    let reason = "a frame that is malformed or too large";
                    this.fault = Some(CloseFrame { code: close_code::PROTOCOL, reason: reason.into() });
                    return Poll::Ready(Err(io::Error::other(error)));
                }
            }
        }
        let length = this.unread.len().min(into.remaining());
        into.put_slice(&this.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // One frame after the other: what waits, waits in the MQTT front, which counts it.
        ready!(self.as_mut().poll_flush(context))?;
        let length = bytes.len().min(WEBSOCKET_FRAME_BYTES);
        let frame = || Message::Binary(Bytes::copy_from_slice(&bytes[..length]));
        ready!(self.poll_send(context, frame))?;
        self.state = Writing::Unflushed;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state == Writing::Unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(context)).map_err(io::Error::other)?;
            self.state = Writing::Flushed;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(context))?;
        if self.state == Writing::Flushed {
            let farewell = self.fault.clone().unwrap_or(CloseFrame { code: close_code::NORMAL, reason: "".into() });
            ready!(self.poll_send(context, || Message::Close(Some(farewell))))?;
            self.state = Writing::Closing;
        }
        Pin::new(&mut self.socket).poll_flush(context).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_page_of_another_may_not_connect_unless_the_owner_named_it() {
        let panel = Origin::try_from("https://panel.home".to_owned()).expect("an origin");
        for (origins, may) in [
            (&[][..], true),
            (&["https://hub.local:8443"], true),
            (&["https://HUB.local:8443"], true),
            (&["https://panel.home"], true),
            (&["http://hub.local:8443"], false),
            (&["https://hub.local"], false),
            (&["https://hub.local:8443.evil.example"], false),
            (&["https://evil.example"], false),
            (&["http://panel.home"], false),
            (&["null"], false),
            (&[""], false),
            (&["https://panel.home", "https://evil.example"], false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("hub.local:8443"));
            for origin in origins {
                headers.append(header::ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(admit_origin(&headers, std::slice::from_ref(&panel)).is_ok(), may, "{origins:?}");
        }
    }
}
